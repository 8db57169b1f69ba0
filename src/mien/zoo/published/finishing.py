"""Published enhancers, upscalers and masks."""

from __future__ import annotations

from mien.zoo.card import ModelCard
from mien.zoo.published.links import (
    BYTE,
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    facefusion,
)
from mien.zoo.templates import scaled

_GFPGAN = "Apache-2.0 with parts of StyleGAN2 (non-commercial), trained on FFHQ"
_GPEN = "non-commercial (yangxy)"
_CELEBAMASK = "MIT, trained on CelebAMask-HQ (non-commercial)"


def _restorer(
    name: str, family: str, size: int, template: str, licence: str, *,
    origin: str, sha256: str = "", length: int = 0,
) -> ModelCard:  # fmt: skip
    """A network from an aligned face to a better one, both -1..1."""
    return ModelCard(
        name=name,
        task="enhance",
        family=family,
        file=f"{name}.onnx",
        sources=facefusion("3.0.0", f"{name}.onnx"),
        origin=origin,
        sha256=sha256,
        bytes=length,
        licence=licence,
        commercial=False,
        size=size,
        layout="NCHW",
        mean=HALF,
        std=HALF,
        outputs={"output": (3, size, size)},
        template=scaled(template, size),
    )


ENHANCERS = (
    _restorer("gfpgan_1.2", "gfpgan", 512, "ffhq_512", _GFPGAN, origin="TencentARC, 2021"),
    _restorer("gfpgan_1.3", "gfpgan", 512, "ffhq_512", _GFPGAN, origin="TencentARC, 2022"),
    _restorer(
        "gfpgan_1.4", "gfpgan", 512, "ffhq_512", _GFPGAN, origin="TencentARC, 2022",
        sha256="accc4757b26bdb89b32b4d3500d4f79c9dff97c1dd7c7104bf9dcb95e3311385",
        length=340_299_087,
    ),
    _restorer(
        "codeformer", "codeformer", 512, "ffhq_512", "S-Lab-1.0 (non-commercial)",
        origin="sczhou, 2022",
        sha256="21710e7ab61c82683576c428e9c1b6fe1ed419586b7b39e394c3449c294b550f",
        length=376_951_650,
    ),
    _restorer(
        "gpen_bfr_256", "gpen", 256, "arcface_128", _GPEN, origin="yangxy, 2021",
        sha256="bad8bf0426873828df2dbf4e3b3d9ababba9da7965b8b72426569486f7ae5c25",
        length=75_792_988,
    ),
    _restorer(
        "gpen_bfr_512", "gpen", 512, "ffhq_512", _GPEN, origin="yangxy, 2021",
        sha256="d5f066b9068a8b74217f9712e28e875a6144629b108a6f7355acbdb3a2832c54",
        length=284_340_240,
    ),
    _restorer(
        "gpen_bfr_1024", "gpen", 1024, "ffhq_512", _GPEN, origin="yangxy, 2021",
        sha256="bcd31aa52110a2005efc96abbab4546d57e42482648f08715b552423d96b381b",
        length=285_203_703,
    ),
    _restorer(
        "gpen_bfr_2048", "gpen", 2048, "ffhq_512", _GPEN, origin="yangxy, 2021",
        sha256="66d12a637118d71b00f5a290b8dac13c81c1c0326a127a1978799c6e17bb8d1f",
        length=285_582_766,
    ),
    _restorer(
        "restoreformer_plus_plus", "restoreformer", 512, "ffhq_512",
        "Apache-2.0, trained on FFHQ (non-commercial)", origin="wzhouxiff, 2022",
        sha256="f4db5a89902b6a2d452446f5721245a6f7185f699b6aec7b77285adb4d504337",
        length=294_264_812,
    ),
)  # fmt: skip


def _upscaler(
    name: str, scale: int, licence: str, *, origin: str, commercial: bool, release: str = "3.0.0"
) -> ModelCard:
    """A fully convolutional network from a picture to one ``scale`` times as large, both 0..1."""
    return ModelCard(
        name=name,
        task="upscale",
        family="esrgan",
        file=f"{name}.onnx",
        sources=facefusion(release, f"{name}.onnx"),
        origin=origin,
        licence=licence,
        commercial=commercial,
        size=0,
        multiple=4,  # the x2 network begins by folding 2x2 pixels into one
        layout="NCHW",
        std=BYTE,
        outputs={"output": (3, "rows", "columns")},
        scale=scale,
        precision="fp16" if name.endswith("_fp16") else "fp32",
        full=name.removesuffix("_fp16") if name.endswith("_fp16") else "",
    )


# Of the networks that are known by their publisher's name, those of the ESRGAN kind: transformers
# (HAT, DAT, Swin2SR) want windows of their own, and have no cards.
UPSCALERS = (
    *(
        _upscaler(
            f"real_esrgan_x{scale}{half}", scale, "BSD-3-Clause", origin="xinntao, 2021",
            commercial=True,
        )
        for scale in (2, 4, 8)
        for half in ("", "_fp16")
    ),
    _upscaler(
        "clear_reality_x4", 4, "non-commercial (Kim2091)", origin="Kim2091, 2023", commercial=False
    ),
    _upscaler("nomos8k_sc_x4", 4, "CC-BY-4.0", origin="Phhofm, 2023", commercial=True),
    _upscaler(
        "realistic_rescaler_x4", 4, "WTFPL", origin="Mutin Choler, 2023", commercial=True,
        release="3.1.0",
    ),
    _upscaler(
        "remacri_x4", 4, "non-commercial (FoolhardyVEVO)", origin="FoolhardyVEVO, 2021",
        commercial=False, release="3.1.0",
    ),
    _upscaler("siax_x4", 4, "WTFPL", origin="NMKD, 2021", commercial=True, release="3.1.0"),
    _upscaler(
        "span_kendata_x4", 4, "non-commercial (terrainer)", origin="terrainer, 2024",
        commercial=False,
    ),
    _upscaler(
        "tghq_face_x8", 8, "GPL-3.0", origin="TorrentGuy, 2019", commercial=False, release="3.5.0"
    ),
    _upscaler(
        "ultra_sharp_x4", 4, "non-commercial (Kim2091)", origin="Kim2091, 2021", commercial=False
    ),
)  # fmt: skip


def _parser(name: str, release: str, sha256: str, length: int) -> ModelCard:
    """BiSeNet's face parsing: 19 classes of CelebAMask-HQ, as logits."""
    return ModelCard(
        name=name,
        task="segment",
        family="bisenet",
        file=f"{name}.onnx",
        sources=facefusion(release, f"{name}.onnx"),
        origin="yakhyo/face-parsing, 2024",
        sha256=sha256,
        bytes=length,
        licence=_CELEBAMASK,
        commercial=False,
        size=512,
        layout="NCHW",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        template=scaled("ffhq_512", 512),
    )


def _xseg(name: str, release: str, sha256: str, length: int) -> ModelCard:
    """DeepFaceLab's XSeg: how much of the face is seen at each pixel, 0..1."""
    return ModelCard(
        name=name,
        task="segment",
        family="xseg",
        file=f"{name}.onnx",
        sources=facefusion(release, f"{name}.onnx"),
        origin="DeepFaceLab, 2021",
        sha256=sha256,
        bytes=length,
        licence="GPL-3.0",  # where its training data came from is not known
        commercial=False,
        size=256,
        order="BGR",
        std=BYTE,
        outputs={"mask": (256, 256, 1)},
        template=scaled("dfl_whole_face", 256),
    )


MASKS = (
    _parser(
        "bisenet_resnet_18", "3.1.0",
        "2218b6183c26ca5c83303232d682a536c670c13ea9695f716c777d1f244eefe9", 53_205_356,
    ),
    _parser(
        "bisenet_resnet_34", "3.0.0",
        "4a0b8c958a3c938913bd06a8365dbb3c8761afba6ecbf0d14b3b1f77eb230c96", 93_632_546,
    ),
    _xseg(
        "xseg_1", "3.1.0",
        "c4d1498b8a03b5fe2a3a5d2ef2a0402ab03bd51edaf5b2d8d5fb764702a97dd3", 70_324_286,
    ),
    _xseg(
        "xseg_2", "3.1.0",
        "cd9a0879eaf43841d765472cf1f8c330dbf9dcb03da0eace93e95f3bcc399042", 70_324_286,
    ),
    _xseg(
        "xseg_3", "3.2.0",
        "48ccd7e8541e159a5a754ec9e62df2f12065f7df8f9af842c1750342c6533559", 70_327_709,
    ),
)  # fmt: skip
