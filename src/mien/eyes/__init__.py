"""Eyes: the portrait's iris in the target's lids, with the target's gaze, blink and light.

Once for each portrait its iris is cut out, what the lids hide of it is filled in, and light and
camera are divided out by the white of the same eye. For every frame that iris is drawn where the
target looks, on a white that is the target's own with its iris taken out, so that the shadow of
the lid, the colour of the light and the corners of the eye stay those of the scene.
"""

from mien.eyes.gaze import IRISES, RINGS, SHUT, Sight, sight
from mien.eyes.iris import CLEAR, LEAST, RADIUS, REACH, SEEN, UNIT, Eyeballs, prepare
from mien.eyes.lids import LID_SHADE, Layer, over, paint, shut

__all__ = [
    "CLEAR", "IRISES", "LEAST", "LID_SHADE", "RADIUS", "REACH", "RINGS", "SEEN", "SHUT", "UNIT",
    "Eyeballs", "Layer", "Sight", "over", "paint", "prepare", "shut", "sight",
]  # fmt: skip
