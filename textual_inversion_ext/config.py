"""Settings of a training run: one frozen, flat record whose fields are also the command line's flags."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.options import check_limits, checked_type, json_object, option

DEFAULT_STEPS = 500
"""Optimizer steps per concept when neither ``max_train_steps`` nor ``num_train_epochs`` is given."""

SchedulerName = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "piecewise_constant"
]
SchedulerChoice = Literal[SchedulerName, "auto"]
TimestepSampling = Literal["uniform", "stratified"]
Precision = Literal["no", "fp16", "bf16"]
Masks = Literal["none", "auto", "alpha", "files", "column", "model"]
Crop = Literal["center", "random", "none", "buckets"]
CaptionUse = Literal["templates", "captions", "both"]
Pooling = Literal["end", "diffusers"]
Distribution = Literal["auto", "concepts", "batch"]


@dataclass(frozen=True)
class TextualInversionConfig:
    """How to train. Names are those of diffusers' ``textual_inversion.py`` where the thing is the same.

    Each field's meaning is its ``metadata["help"]``, which ``textual-inversion train --help`` prints.

    Raises:
        ConfigError: A value has the wrong type or lies outside its limits.
    """

    # The model
    pretrained_model_name_or_path: str = option("pocket", "Model: Hub id, folder, or 'pocket' (built in).")
    revision: str | None = option(None, "Revision (branch, tag or commit) of the model on the Hub.")
    variant: str | None = option(None, "Variant of the model's weight files, for example fp16.")
    tokenizer_name: str | None = option(None, "Another tokenizer than the model's own (id or folder).")
    encoders: str = option("all", "Text encoders that learn the word (all, or clip_l,clip_g); others read plain text.")
    pooling: Pooling = option(
        "end", "Where SDXL pools a prompt: its end (as other tools do), or as plain diffusers does with a new word."
    )
    # The run
    output_dir: str = option("textual-inversion", "Folder that receives everything the run writes.")
    overwrite_output_dir: bool = option(False, "Replace the run that output_dir holds, if it holds one.")
    seed: int = option(0, "Seed. On CPU the same seed gives the same rows, bit for bit.", least=0, most=2**63 - 1)
    resolution: int | None = option(None, "Side of the training pictures; default: the model's own.", least=8)
    max_concurrent_concepts: int = option(8, "How many concepts share a step; the others wait in a queue.", least=1)
    distribute: Distribution = option(
        "auto",
        "What several processes share: concepts = each trains its own, batch = each takes its part of every batch; "
        "auto: concepts, if there is one for every process.",
    )
    skip_bad_images: bool = option(False, "Go on without unreadable images and list them at the end.")
    # What is read beside the pictures
    image_column: str | None = option(None, "Column of pictures in a data set; default: image, or the only one.")
    caption_column: str | None = option(
        None, "Column of captions in a data set or metadata file; default: text, caption or captions."
    )
    masks: Masks = option(
        "none",
        "Masks of the subject: alpha = transparency of the pictures, files = corgi_mask.png beside corgi.jpg, column = "
        "of a data set or metadata file, model = made by mask_model; auto = the first of column, files, alpha, model "
        "that is there.",
    )
    mask_column: str | None = option(None, "Column of masks in a data set or metadata file; default: mask.")
    mask_model: str | None = option(None, "Segmentation model (Hub id or folder) that makes masks; runs on the CPU.")
    mask_label: str | None = option(
        None, "What mask_model shall look for, one or more of its labels (dog,cat); default: the concept's class_name."
    )
    blur_background: float = option(
        0.0, "Blur what is outside the mask, by a radius in pixels of a picture 512 pixels wide; 0 = not.", least=0
    )
    fill_background: str | None = option(None, "Fill what is outside the mask with a colour: white, '#808080', ...")
    # The pictures and the sentences they are shown with
    crop: Crop = option(
        "center",
        "What is used of a picture: center or random = the largest square, none = all of it, squashed to the square as "
        "the paper's code does, buckets = the nearest of a few shapes with as many pixels as the square.",
    )
    random_crops: int = option(4, "How many random squares of each picture are kept (crop random).", least=1, most=64)
    flip_p: float = option(
        0.0, "Probability of mirroring a picture left to right; spoils text and lopsided things.", least=0, most=1
    )
    mask_outside_weight: float = option(
        0.0, "Weight of the loss outside of the mask, for pictures that have one; 1 = no mask.", least=0, most=1
    )
    captions: CaptionUse = option(
        "templates", "Sentences: the templates, the pictures' own captions, or both in equal shares."
    )
    shuffle_caption: bool = option(False, "Shuffle the comma-separated tags of captions.")
    caption_tag_dropout_rate: float = option(0.0, "Probability with which a tag is left out.", least=0, below=1)
    caption_dropout_rate: float = option(
        0.0, "Share of captions (to a hundredth) that are replaced by the word alone.", least=0, below=1
    )
    per_image_tokens: bool = option(False, "Also learn a word for each picture, which takes up what is its alone.")
    per_image_share: float = option(
        0.25, "Share of prompts (to a hundredth) with the picture's own word in them.", least=0.01, most=1
    )
    keep_per_image_tokens: bool = option(False, "Save the pictures' own words too, in the folder per_image.")
    progressive_steps: str | None = option(
        None,
        "When the 2nd, 3rd, ... vector joins: steps ('2000 4000', as in the paper) or shares of the run ('0.33 0.66').",
    )
    # How long, how much at once (all counted per concept)
    train_batch_size: int = option(4, "Pictures of each concept per process and micro-batch.", least=1)
    gradient_accumulation_steps: int = option(1, "Micro-batches per optimizer step.", least=1)
    max_train_steps: int | None = option(
        None, f"Optimizer steps per concept; default: from num_train_epochs, else {DEFAULT_STEPS}.", least=1
    )
    num_train_epochs: int | None = option(
        None, "One epoch shows as many pictures as the concept has. max_train_steps wins when both are given.", least=1
    )
    gradient_checkpointing: bool = option(False, "Recompute activations in the backward pass: less memory, slower.")
    mixed_precision: Precision = option("no", "Number format of the frozen networks; learned rows stay float32.")
    allow_tf32: bool = option(False, "Allow TF32 matrix products on Ampere and later GPUs.")
    # Where the rows start
    initialization: str = option(
        "auto",
        "Where the rows start: words, phrase, file, mean, cross or images; auto: a path is a file, all else words. A "
        "concept of a list may have its own.",
    )
    initializer_noise: float | None = option(
        None, "Noise on the first rows, as a share of the vocabulary's spread; default: 0 (mean: 0.1).", least=0
    )
    clip_model: str | None = option(
        None, "For initialization images: the CLIP model (id or folder) of the text encoder; default: the known one."
    )
    clip_init_steps: int = option(100, "For initialization images: steps of the search through CLIP.", least=1)
    clip_init_learning_rate: float = option(
        0.2, "For initialization images: learning rate of the search, in units of a row's size; falls to 0.", above=0
    )
    # How the rows move
    parametrization: str = option("free", "What a learned row is and how it moves.")
    vmf_kappa: float = option(
        1e-4, "Directional rows: strength of the pull towards the first direction (von Mises-Fisher prior).", least=0
    )
    direction_beta: float = option(
        0.0, "Directional rows: decay of the mean squared gradient; 0 makes every step equally long.", least=0, below=1
    )
    optimizer: str = option("AdamW", "Moves free rows: AdamW, or any class by its full name (torch.optim.SGD).")
    optimizer_args: str | None = option(None, 'Further arguments of a named optimizer, as JSON: {"momentum": 0.9}.')
    max_grad_norm: float | None = option(None, "Clip the gradient of each learned row to this norm.", above=0)
    ema_decay: float = option(
        0.0, "Save a moving average of the rows: 0.99 averages about 100 steps, 0 none.", least=0, below=1
    )
    learning_rate: float = option(1e-2, "Learning rate after the warm-up.", above=0)
    scale_lr: bool = option(False, "Multiply learning_rate by accumulation steps, batch size and processes.")
    lr_scheduler: SchedulerChoice = option(
        "auto", "Shape of the learning rate over a row's own age; auto: cosine, but constant beside a stopping rule."
    )
    lr_warmup_steps: int = option(0, "Steps of linear warm-up (not used by 'constant').", least=0)
    lr_num_cycles: int = option(1, "Number of restarts of cosine_with_restarts.", least=1)
    lr_power: float = option(1.0, "Power of polynomial.", above=0)
    lr_step_rules: str | None = option(None, "Rules of piecewise_constant, factor:until step: '1:200,0.1:400,0.01'.")
    adam_beta1: float = option(0.9, "Adam's decay of the first moment.", least=0, below=1)
    adam_beta2: float = option(0.999, "Adam's decay of the second moment.", least=0, below=1)
    adam_weight_decay: float = option(0.0, "Weight decay; any value above 0 pulls the learned rows to zero.", least=0)
    adam_epsilon: float = option(1e-8, "Adam's epsilon.", above=0)
    # A LoRA beside the word (pivotal tuning)
    lora_rank: int = option(0, "Rank of a LoRA on the denoiser that is trained with the word; 0 = none.", least=0)
    lora_text_encoder_rank: int = option(0, "Rank of a LoRA on the text encoders; 0 = none.", least=0)
    lora_alpha: float | None = option(None, "The LoRA acts with strength alpha / rank; default: the rank.", above=0)
    lora_layers: str | None = option(
        None, "Layers of the denoiser that the LoRA changes, such as to_k,to_v; default: its attention (q, k, v, out)."
    )
    lora_learning_rate: float = option(1e-4, "Learning rate of the denoiser's LoRA.", above=0)
    text_encoder_lr: float = option(1e-5, "Learning rate of the text encoders' LoRA.", above=0)
    lora_weight_decay: float = option(1e-2, "Weight decay of the LoRA, which pulls to the model as it was.", least=0)
    lora_start: float = option(
        0.0,
        "When the LoRA starts: below 1 a share of the run, else a number of steps; 0 = with the word.",
        least=0,
    )
    continue_inversion_lr: float | None = option(
        None, "Learning rate of the word once the LoRA trains; 0 = it stays as it is; default: learning_rate.", least=0
    )
    train_text_encoder_ti_frac: float = option(
        1.0, "Share of the run in which the word moves; in the rest the LoRA trains alone.", above=0, most=1
    )
    # What is minimised
    snr_gamma: float | None = option(None, "Gamma of min-SNR weighting of the loss (5 in its paper).", above=0)
    timestep_sampling: TimestepSampling = option("stratified", "stratified spreads the timesteps of each batch evenly.")
    timestep_bias: float = option(
        2.0, "Draw noisy timesteps more often: with a density of t to this power; 0 draws all alike.", least=0
    )
    noise_offset: float = option(0.0, "Scale of added noise that is constant over each channel of a picture.", least=0)
    initial_l2_weight: float = option(0.0, "Weight of the squared distance of each row to its first value.", least=0)
    norm_pull_weight: float = option(0.0, "Weight of the pull of norms towards the vocabulary's mean norm.", least=0)
    context_weight: float = option(
        0.0, "Weight of keeping the other words' encodings as beside the class word (CoRe; 1.5e-4 there).", least=0
    )
    anchor_weight: float = option(
        0.0, "Weight of the distance to the class word's embedding (Compositional Inversion; 19 there).", least=0
    )
    # When to stop, and which rows to keep (all judged for each concept by itself)
    eval_steps: int = option(
        10, "Steps between two evaluations on a fixed batch (5% of the time by default); 0 switches them off.", least=0
    )
    eval_batch_size: int = option(4, "Samples of each concept in its evaluation batch.", least=1, most=1000)
    keep: Literal["last", "best"] = option(
        "last", "Rows in the final files: those of the last step, or of the lowest evaluation loss."
    )
    stopping: str = option("none", "Rule that stops a concept early: none (fixed steps), dvar, plateau.")
    dvar_window: int = option(310, "DVAR: window in steps, also the fewest steps of a concept.", least=2)
    dvar_threshold: float = option(
        0.15, "DVAR: stop when the evaluation loss varies in the window by this part of its variance in the whole run.",
        above=0, most=1,
    )  # fmt: skip
    plateau_patience: int = option(100, "Plateau: stop after so many steps without an improvement.", least=1)
    plateau_threshold: float = option(
        0.005, "Plateau: least part by which an evaluation loss must fall to count as an improvement.", least=0, below=1
    )
    # What is reported and saved
    report_to: str = option("none", "Tracker: none, all, tensorboard, wandb, or any other that accelerate knows.")
    logging_dir: str = option("logs", "Folder of the tracker's files, inside output_dir.")
    logging_steps: int = option(10, "Steps between two lines of the step log.", least=1)
    validation_prompt: str | None = option(None, "Prompt of the previews; write the placeholder token into it.")
    num_validation_images: int = option(4, "Pictures per preview.", least=1)
    validation_steps: int = option(100, "Steps between two previews.", least=1)
    save_steps: int = option(500, "Steps between two snapshots of the embedding files.", least=1)
    save_as_full_pipeline: bool = option(False, "Also save the whole model with the learned word built in.")
    checkpointing_steps: int = option(500, "Steps between two checkpoints (a few kilobytes each).", least=1)
    checkpoints_total_limit: int | None = option(None, "Keep only this many checkpoints, the newest.", least=1)
    resume_from_checkpoint: str | None = option(
        None, "'latest', or the path of a checkpoint folder; later checkpoints of the run it continues are removed."
    )

    def __post_init__(self) -> None:
        """Check types and limits of every field."""
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = checked_type(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
            check_limits(field.name, value, field.metadata["limits"])
        for name in ("pretrained_model_name_or_path", "output_dir", "logging_dir", "report_to"):
            if not getattr(self, name).strip():
                raise ConfigError(f"{name} is empty; give a value or leave it out.")
        if self.eval_steps == 0 and (self.stopping != "none" or self.keep == "best"):
            asked = "keep best" if self.keep == "best" else f"stopping {self.stopping}"
            raise ConfigError(f"{asked} needs evaluations, but eval_steps is 0; give the steps between two, say 10.")

    @property
    def schedule(self) -> SchedulerName:
        """What ``lr_scheduler`` comes to: a falling rate would tell a stopping rule that all is learned."""
        if self.lr_scheduler == "auto":
            return "cosine" if self.stopping == "none" else "constant"
        return self.lr_scheduler

    def to_dict(self) -> dict[str, Any]:
        """All fields by name; values are JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TextualInversionConfig:
        """Build a config from field names and values.

        Args:
            values: Any subset of the fields; the others keep their defaults.

        Returns:
            The config.

        Raises:
            ConfigError: A name is unknown or a value is not allowed.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else f" Known settings: {', '.join(known)}."
                raise ConfigError(f"Unknown setting {name!r}.{hint}")
        return cls(**values)

    def to_json(self) -> str:
        """The config as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> TextualInversionConfig:
        """Read what ``to_json`` wrote.

        Args:
            text: A JSON object.

        Returns:
            The config.

        Raises:
            ConfigError: The text is no JSON object, or ``from_dict`` refuses it.
        """
        return cls.from_dict(json_object(text, "the config"))
