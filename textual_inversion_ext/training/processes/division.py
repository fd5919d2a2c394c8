"""Who trains what when a run has several processes, and what of ``accelerate``'s own configuration is not followed."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from textual_inversion_ext.config import Distribution, TextualInversionConfig
from textual_inversion_ext.errors import ConfigError


def are_split(distribute: Distribution, num_concepts: int, num_processes: int) -> bool:
    """Whether each process trains concepts of its own.

    Args:
        distribute: "concepts", "batch", or "auto": split if every process gets at least one concept. Splitting is
            preferred because processes that need not speak to each other are never slowed by it.
        num_concepts: Concepts of the run.
        num_processes: Processes of the run.

    Returns:
        False for a single process.

    Raises:
        ConfigError: "concepts", but there are more processes than concepts.
    """
    if distribute == "concepts" and num_concepts < num_processes:
        raise ConfigError(
            f"distribute is 'concepts', but {num_concepts} concept(s) cannot occupy {num_processes} processes. Start"
            f" at most {num_concepts}, or say --distribute batch."
        )
    return num_processes > 1 and distribute != "batch" and num_concepts >= num_processes


def deal(num_concepts: int, num_processes: int, first: Collection[int] = ()) -> tuple[tuple[int, ...], ...]:
    """Deal concepts to processes like cards, evenly.

    Args:
        num_concepts: Concepts of the run.
        num_processes: At most as many.
        first: Concepts that the first process should have, as far as its share goes.

    Returns:
        Positions of each process's concepts, ascending; no process is left without.
    """
    room = -(-num_concepts // num_processes)
    shares: list[list[int]] = [sorted(first)[:room], *([] for _ in range(num_processes - 1))]
    for place in range(num_concepts):
        if place not in shares[0]:
            min(shares, key=len).append(place)
    return tuple(tuple(sorted(share)) for share in shares)


def launch_notices(config: TextualInversionConfig, environment: Mapping[str, str]) -> list[str]:
    """What ``accelerate``'s own configuration asks for and this run does otherwise.

    Our settings win, their defaults included: a run is what its ``config.json`` says, wherever it is started.

    Args:
        config: The run's settings.
        environment: Variables that ``accelerate launch`` has set.

    Returns:
        One sentence for each difference.
    """
    notices = []
    for name in ("mixed_precision", "gradient_accumulation_steps"):
        asked, used = environment.get(f"ACCELERATE_{name.upper()}"), str(getattr(config, name))
        neutral = ("no", "1", "auto", None)
        if asked not in neutral and asked != used:
            notices.append(f"accelerate is configured with {name} {asked}; this run uses --{name} {used}, which wins.")
    if environment.get("ACCELERATE_DYNAMO_BACKEND", "NO").upper() != "NO":
        notices.append("accelerate is configured to compile with dynamo; this run does not compile.")
    sharded = [
        name for name in ("DEEPSPEED", "FSDP", "MEGATRON_LM") if environment.get(f"ACCELERATE_USE_{name}") == "true"
    ]
    if sharded:
        notices.append(f"accelerate is configured for {sharded[0]}; each process holds the whole frozen model here.")
    return notices
