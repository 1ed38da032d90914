"""Between the pictures of a robot's cameras and the latents of a published model.

`Size.views` says which latent cells each camera has, and `Size.encoded` whether all cameras are encoded as one picture
or each as one of its own. Pictures of another size are resized, also where that changes their aspect ratio, since the
models were trained on pictures that were treated so. A crop keeps the middle of a picture, at the size of the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional
from diffusers.models import AutoencoderKLWan
from torch import Tensor

from policies.backbones.codecs import LatentCodec, Stream
from policies.backbones.door import Observation
from policies.backbones.published.files import open_checkpoint
from policies.backbones.published.filling import fill
from policies.backbones.published.fit import compare
from policies.backbones.published.layout import Size
from policies.backbones.published.wan_files import WAN_VAE, original_vae_name
from policies.backbones.shapes import COMPRESSION, View
from policies.backbones.xwam.cameras import encode_cameras, placed

Streams = Mapping[str, Stream]
"""The state of the autoencoder within an episode, for each camera that is encoded apart."""

ENCODING, DECODING = ("encoder.", "quant_conv."), ("decoder.", "post_quant_conv.")


def fitted(
    observations: Sequence[Observation], views: Sequence[View], crop: float = 1.0
) -> dict[str, npt.NDArray[np.uint8]]:
    """Resize the pictures to their views. Returns uint8 [B, H, W, 3] by the camera's name."""
    return {
        view.camera: np.stack(
            [_resized(np.asarray(observation[view.camera]), view, crop) for observation in observations]
        )
        for view in views
    }


def compose(observations: Sequence[Observation], views: Sequence[View], crop: float = 1.0) -> npt.NDArray[np.uint8]:
    """Place the pictures of each observation on a canvas. Returns uint8 [B, H, W, 3]."""
    height = COMPRESSION * max(view.rows.stop for view in views)
    width = COMPRESSION * max(view.columns.stop for view in views)
    canvas = np.zeros((len(observations), height, width, 3), dtype=np.uint8)
    pictures = fitted(observations, views, crop)
    for view in views:
        rows, columns = _pixels(view)
        canvas[:, rows, columns] = pictures[view.camera]
    return canvas


def split(canvas: npt.NDArray[Any], views: Sequence[View]) -> dict[str, npt.NDArray[Any]]:
    """Cut canvases [..., H, W, n] into the pictures of the cameras, by their names."""
    return {view.camera: canvas[..., _pixels(view)[0], _pixels(view)[1], :] for view in views}


def _pixels(view: View) -> tuple[slice, slice]:
    rows, columns = view.rows, view.columns
    return (
        slice(COMPRESSION * rows.start, COMPRESSION * rows.stop),
        slice(COMPRESSION * columns.start, COMPRESSION * columns.stop),
    )


def _resized(picture: npt.NDArray[np.uint8], view: View, crop: float) -> npt.NDArray[np.uint8]:
    """Resize a picture [H, W, 3] bilinearly, where smaller pictures are averages, as the models' own code does."""
    size = COMPRESSION * view.height, COMPRESSION * view.width
    if picture.shape[:2] == size and crop == 1:
        return picture
    tensor = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float()
    resized = functional.interpolate(tensor, size, mode="bilinear", antialias=True)
    if crop != 1:
        kept = [int(number * crop) for number in size]
        top, left = ((whole - part) // 2 for whole, part in zip(size, kept, strict=True))
        middle = resized[..., top : top + kept[0], left : left + kept[1]]
        resized = functional.interpolate(middle, size, mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()


class Pictures:
    """Wan's autoencoder, of diffusers or of its first authors. Its decoder is loaded when it is needed."""

    def __init__(self, path: Path, size: Size, device: torch.device, dtype: torch.dtype, crop: float = 1.0) -> None:
        """Load the encoder in the folder of diffusers or the file `Wan2.2_VAE.pth`.

        Raises ValueError if its files are damaged or of another model.
        """
        self.views, self.encoded, self.crop = size.views, size.encoded, crop
        self._checkpoint, self._device, self._dtype = open_checkpoint(path), device, dtype
        original = path.is_file()
        config = dict(WAN_VAE) if original else AutoencoderKLWan.load_config(path, local_files_only=True)
        with torch.device("meta"):
            self._vae = AutoencoderKLWan.from_config(config)
        found = self._vae.config["z_dim"], self._vae.config["scale_factor_spatial"]
        if found != (size.channels, COMPRESSION):
            raise ValueError(
                f"{path}: it is an autoencoder of {found[0]} channels that compresses {found[1]} times; that of "
                f"Wan2.2-TI2V-5B has {size.channels} and {COMPRESSION}: set wam.vae to its folder"
            )
        shapes = {name: tuple(part.shape) for name, part in self._vae.state_dict().items()}
        blocks = self._vae.config["num_res_blocks"]
        self._names = {name: original_vae_name(name, blocks) if original else name for name in shapes}
        fit = compare({self._names[name]: shape for name, shape in shapes.items()}, self._checkpoint.shapes)
        if not fit.fits:
            of = "Wan2.2-TI2V-5B's autoencoder" if original else "its config.json"
            raise ValueError(f"{path}: its weights do not fit {of}: {fit}. Get it again.")
        self._fill(ENCODING)
        mean, std = (torch.tensor(self._vae.config[name], device=device) for name in ("latents_mean", "latents_std"))
        self._codec = LatentCodec(self._vae, mean, std)
        self._decodes = False

    def encode(self, observations: Sequence[Observation]) -> Tensor:
        """Return the latents float32 [B, C, 1, h, w] of the observed pictures, each camera in its cells."""
        if self.encoded == "together":
            return self._codec.encode(compose(observations, self.views, self.crop)[:, None])
        apart = {camera: pictures[:, None] for camera, pictures in fitted(observations, self.views, self.crop).items()}
        return encode_cameras(self._codec, apart, self.views)

    def encode_on(self, seen: Observation, streams: Streams | None = None) -> tuple[Tensor, Streams]:
        """Encode the next observations of an episode, whose values have a first axis of size 4k + 1, later of 4k.

        `streams` is what the call for those before them returned beside the latents float32 [1, C, k or k + 1, h, w].
        """
        count = len(seen[self.views[0].camera])
        moments = [{view.camera: seen[view.camera][moment] for view in self.views} for moment in range(count)]
        together = self.encoded == "together"
        shown = {"": compose(moments, self.views, self.crop)} if together else fitted(moments, self.views, self.crop)
        encoded = {
            name: self._codec.encode_on(pictures[None], streams.get(name) if streams else None)
            for name, pictures in shown.items()
        }
        going = {name: stream for name, (_, stream) in encoded.items()}
        if together:
            return encoded[""][0], going
        return placed({view: encoded[view.camera][0] for view in self.views}), going

    def decode(self, latents: Tensor) -> dict[str, npt.NDArray[np.uint8]]:
        """Return uint8 [B, 4k + 1, H, W, 3] of latents [B, C, k + 1, h, w], by the camera's name."""
        if not self._decodes:
            self._fill(DECODING)
            self._decodes = True
        latents = latents.to(self._device, torch.float32)
        if self.encoded == "together":
            return split(self._codec.decode(latents), self.views)
        return {view.camera: self._codec.decode(latents[:, :, :, view.rows, view.columns]) for view in self.views}

    def _fill(self, parts: tuple[str, ...]) -> None:
        names = {name: stored for name, stored in self._names.items() if name.startswith(parts)}
        fill(self._vae, self._checkpoint, names, self._device, lambda _: self._dtype)
