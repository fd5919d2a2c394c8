"""Command line of the pocket recipe."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTextModel, CLIPTokenizer

from textual_inversion_ext.data.prompts.templates import PHOTO_TEMPLATES, STYLE_TEMPLATES
from textual_inversion_ext.pocket.build import clip, unet, vae
from textual_inversion_ext.pocket.build.continued import continue_clip, earlier_unet, earlier_vae
from textual_inversion_ext.pocket.build.dataset import RenderedWorld, rendered_world
from textual_inversion_ext.pocket.build.loop import Schedule
from textual_inversion_ext.pocket.build.tokenizer import build_tokenizer
from textual_inversion_ext.pocket.characters import CHARACTERS
from textual_inversion_ext.pocket.renderer import SIDE

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
PICTURES = 60_000
SEED = 20_221


def make_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = argparse.ArgumentParser(prog="python -m textual_inversion_ext.pocket.build", description=__doc__)
    parser.add_argument(
        "--work_dir",
        type=Path,
        default=Path("pocket-build"),
        help="pictures and checkpoints; a second call goes on there",
    )
    parser.add_argument("--output_dir", type=Path, default=WEIGHTS, help="where the finished weights go")
    parser.add_argument("--stage", choices=("all", "render", "clip", "vae", "unet", "export"), default="all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that render")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="training pictures to render, in steps of 500")
    parser.add_argument(
        "--start_from", type=Path, help="weights of an earlier build to go on from, in a world that has grown"
    )
    parser.add_argument(
        "--clip_steps", type=int, help="other than the recipe's; 0 beside --start_from keeps CLIP and its tokenizer"
    )
    parser.add_argument("--vae_steps", type=int, help="other than the recipe's")
    parser.add_argument("--unet_steps", type=int, help="other than the recipe's")
    return parser


class Build:
    """The stages of the recipe; each finds what the earlier ones left in the work folder.

    Args:
        arguments: Parsed command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.folder: Path = arguments.work_dir
        self.device = torch.device(arguments.device)
        self.world: RenderedWorld = rendered_world(self.folder, arguments.pictures, SEED, arguments.workers)
        self.tokenizer = self._tokenizer()

    def _tokenizer(self) -> CLIPTokenizer:
        earlier = self.arguments.start_from
        if earlier is not None and self.arguments.clip_steps == 0:  # the text encoder stays, and its words with it
            return CLIPTokenizer.from_pretrained(earlier / "pipeline" / "tokenizer")
        # Learned once: pairs that are equally frequent are merged in an order that differs from process to process.
        folder = self.folder / "tokenizer"
        if not folder.exists():
            captions = (text for texts in self.world.captions for text in texts)
            templates = [t.format("thing") for t in PHOTO_TEMPLATES + STYLE_TEMPLATES for _ in range(50)]
            names = [name for name in CHARACTERS for _ in range(50)]
            partial = self.folder / "tokenizer.partial"
            build_tokenizer([*captions, *templates, *names]).save_pretrained(partial)
            partial.replace(folder)
        return CLIPTokenizer.from_pretrained(folder)

    def clip(self) -> CLIPModel:
        """Train CLIP, or go on training it."""
        torch.manual_seed(SEED)
        model, earlier = clip.build_clip(self.tokenizer), self.arguments.start_from
        schedule, growth = clip.SCHEDULE, clip.GROWTH
        if earlier is not None:
            model, schedule, growth = continue_clip(model, self.tokenizer, earlier), clip.CONTINUED, 1
        schedule = _with_steps(schedule, self.arguments.clip_steps)
        return clip.train_clip(model, self.tokenizer, self.world, self.folder, self.device, schedule, growth)

    def vae(self) -> AutoencoderKL:
        """Train the VAE, or go on training it, or take the earlier one."""
        if self.arguments.start_from is not None:
            return earlier_vae(self.arguments.start_from).to(self.device)
        torch.manual_seed(SEED + 1)
        schedule = _with_steps(vae.SCHEDULE, self.arguments.vae_steps)
        return vae.train_vae(vae.build_vae(), self.world, self.folder, self.device, schedule)

    def unet(self) -> tuple[AutoencoderKL, UNet2DConditionModel]:
        """Train the denoiser on what CLIP and the VAE have learned."""
        earlier = self.arguments.start_from
        text_clip, autoencoder = self.clip(), self.vae()
        latents = self._latents(autoencoder)
        if earlier is None:  # latents are scaled to unit variance
            autoencoder.register_to_config(scaling_factor=float(1.0 / latents.float().std()))
        latents = (latents.float() * autoencoder.config.scaling_factor).half()
        torch.manual_seed(SEED + 2)
        going_on = {"batch": unet.CONTINUED_BATCH, "coarse_from": 0} if earlier else {}
        model = unet.train_unet(
            earlier_unet(earlier) if earlier else unet.build_unet(),
            text_tower(text_clip),
            self.tokenizer,
            latents,
            self.world,
            self.folder,
            self.device,
            _with_steps(unet.CONTINUED if earlier else unet.SCHEDULE, self.arguments.unet_steps),
            **going_on,
        )
        return autoencoder, model

    def _latents(self, autoencoder: AutoencoderKL) -> torch.Tensor:
        path = self.folder / f"latents-{self.arguments.vae_steps or vae.SCHEDULE.steps}.pt"
        if not path.exists():
            torch.save(vae.encode_world(autoencoder, self.world, self.device), path)
        return torch.load(path, weights_only=True)

    def export(self) -> None:
        """Write the finished pipeline and CLIP in half precision, in diffusers' and transformers' own formats."""
        text_clip = self.clip()
        autoencoder, denoiser = self.unet()
        pipeline = StableDiffusionPipeline(
            vae=autoencoder.cpu().half(),
            text_encoder=text_tower(text_clip).cpu().half(),
            tokenizer=self.tokenizer,
            unet=denoiser.cpu().half(),
            # A sampler that adds fresh noise mends what the small denoiser got wrong at the noisiest timesteps.
            # An offset of 1 is what diffusers wants to read in a model's files; this spacing has no use for it.
            scheduler=EulerAncestralDiscreteScheduler(**unet.NOISE, timestep_spacing="trailing", steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(self.arguments.output_dir / "pipeline")
        folder = self.arguments.output_dir / "clip"
        text_clip.config.save_pretrained(folder)
        image_processor().save_pretrained(folder)
        # The text tower is in the pipeline already; the wheel need not carry it twice.
        rest = {n: t.half().contiguous() for n, t in text_clip.state_dict().items() if not n.startswith("text_model.")}
        save_file(rest, folder / "vision.safetensors")


def text_tower(model: CLIPModel) -> CLIPTextModel:
    """Copy CLIP's text tower into the class that Stable Diffusion's pipelines hold."""
    tower = CLIPTextModel(model.config.text_config)
    source = {n.removeprefix("text_model."): t for n, t in model.state_dict().items() if n.startswith("text_model.")}
    prefix = "text_model." if any(n.startswith("text_model.") for n in tower.state_dict()) else ""
    tower.load_state_dict({f"{prefix}{name}": tensor.clone() for name, tensor in source.items()})
    return tower.eval()


def image_processor() -> CLIPImageProcessorPil:
    """Describe how the pocket CLIP wants its pictures."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[clip.PIXEL_MEAN] * 3,
        image_std=[clip.PIXEL_STD] * 3,
    )


def _with_steps(schedule: Schedule, steps: int | None) -> Schedule:
    return schedule if steps is None else replace(schedule, steps=steps)


def main() -> None:
    """Run one stage, or all."""
    arguments = make_parser().parse_args()
    build = Build(arguments)
    if arguments.stage in ("clip", "vae", "unet"):
        getattr(build, arguments.stage)()
    elif arguments.stage != "render":
        build.export()


if __name__ == "__main__":
    main()
