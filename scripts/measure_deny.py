"""How often a deny list errs: on the pairs of Labeled Faces in the Wild, and on all pairs of them.

    python scripts/measure_deny.py --photos lfw-192.tar --pairs lfw-pairs.txt

For a row of thresholds it prints the false matches (two people taken for one) and the misses (one
person not found again), on the list's 6,000 pairs, and the false matches on every pair of photos
of different people among them, of which there are enough for small rates. With the rate p of
false matches, somebody who is on no list is refused by one of n entries with the chance
1 - (1 - p)^n. It also says what several photos of an entry, and several looks at a face, do.
Faces go through mien's own detector and mesh; in each photo the face nearest the middle counts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from measure_embed import read_pairs, read_photos, vectors
from mien import deny, embed
from mien.types import Floats

THRESHOLDS = (0.30, 0.34, 0.38, 0.42, 0.46, 0.48, 0.50, 0.52, 0.54, 0.56, 0.60, 0.65)
ENTRIES = (1, 10, 100, 1000, 10000)


def everyone(found: dict[str, Floats]) -> tuple[np.ndarray, int]:
    """Cosines of all pairs of photos of different people, from 0.25 on, and how many there are."""
    names = sorted(found)
    people = np.array([name.rsplit("_", 1)[0] for name in names])
    every = np.stack([found[name] for name in names])
    kept, total = [], 0
    for n in range(0, len(names), 512):
        cosines = every[n : n + 512] @ every.T
        other = people[n : n + 512, None] != people[None]
        other &= np.arange(len(names))[None] > np.arange(n, min(n + 512, len(names)))[:, None]
        total += int(other.sum())
        kept.append(cosines[other & (cosines >= 0.25)])
    return np.sort(np.concatenate(kept)), total


def entries_of(found: dict[str, Floats], photos: int) -> tuple[np.ndarray, ...]:
    """Cosines with the means of people's first photos.

    Returns:
        Of each further photo of the person; the best of two further photos, for those with two;
        of all photos of others.
    """
    people: dict[str, list[str]] = {}
    for name in sorted(found):
        people.setdefault(name.rsplit("_", 1)[0], []).append(name)
    single, best, others = [], [], []
    every = np.stack([found[name] for name in sorted(found)])
    whose = np.array([name.rsplit("_", 1)[0] for name in sorted(found)])
    for person, own in people.items():
        if len(own) < photos + 2:
            continue
        entry = deny.mean([found[name] for name in own[:photos]])
        cosines = [float(entry @ found[name]) for name in own[photos : photos + 10]]
        single += cosines
        best += [max(pair) for pair in zip(cosines[::2], cosines[1::2], strict=False)]
        others.append((every @ entry)[whose != person])
    return np.array(single), np.array(best), np.concatenate(others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="tar file of the photos")
    parser.add_argument("--pairs", type=Path, required=True, help="the list of pairs")
    parser.add_argument("--keep", type=Path, help="file for the embeddings, used if it is there")
    options = parser.parse_args()
    pairs = [pair for fold in read_pairs(options.pairs) for pair in fold]
    wanted = {name for a, b, _ in pairs for name in (a, b)}
    if options.keep is not None and options.keep.exists():
        found = dict(np.load(options.keep))
    else:
        photos = read_photos(options.photos, wanted.__contains__)
        found = vectors(photos, embed.load())[0]
        if options.keep is not None:
            np.savez(options.keep, **found)
    same = np.sort([float(found[a] @ found[b]) for a, b, one in pairs if one])
    other = np.sort([float(found[a] @ found[b]) for a, b, one in pairs if not one])
    strangers, total = everyone(found)
    print(
        f"{len(found)} photos; {len(same)} pairs of one person, {len(other)} of two; "
        f"{total} pairs of two in all"
    )
    print("threshold  false (list)  false (all)  misses   chance of a false refusal by 1, 10, …")
    for limit in THRESHOLDS:
        rate = (len(strangers) - int(np.searchsorted(strangers, limit))) / total
        chances = "  ".join(f"{1 - (1 - rate) ** n:.2g}" for n in ENTRIES)
        print(
            f"{limit:9.2f}  {(other >= limit).mean():12.2e}  {rate:11.2e}  "
            f"{(same < limit).mean():6.3f}   {chances}"
        )
    for rate in (1e-4, 1e-5, 1e-6):
        limit = float(strangers[-max(1, round(rate * total))])
        print(
            f"false matches {rate:.0e} (all pairs): threshold {limit:.3f}, "
            f"misses {(same < limit).mean():.3f}"
        )
    limit = deny.THRESHOLD
    for photos in (1, 2, 3):
        single, best, others = entries_of(found, photos)
        print(
            f"entry of {photos} photos at {limit}: misses {(single < limit).mean():.3f} of "
            f"{len(single)} photos, {(best < limit).mean():.3f} of {len(best)} pairs of looks; "
            f"false matches {(others >= limit).mean():.1e} of {len(others)}"
        )


if __name__ == "__main__":
    main()
