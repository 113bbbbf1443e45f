"""Checkpoints: written so that no crash leaves half a file, read without running their code."""

import argparse
import contextlib
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeAlias

import torch
from torch import Tensor, nn

from util.distributed import is_main_process
from util.errors import UserError

StrPath: TypeAlias = str | os.PathLike[str]

_URL = re.compile(r"^(https?|file)://")
_FORBIDDEN_NAME = re.compile(r"GLOBAL ([\w.]+)")
_MAX_LISTED = 5
# A switch of the command line, and the key that only models built with it have.
_SWITCHES = (("--masks", "mask_head.lay1.weight"), ("--pre_norm", "encoder.norm.weight"))


# ---- writing -------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_write(path: StrPath, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that takes the place of ``path`` only once it is complete and on the disk.

    It is written under another name in the same folder and renamed when the block ends. Where the
    block raises, it is removed and ``path`` stays as it was. A symbolic link stays one.

    Args:
        path: file to make or to replace; its folder must exist.
        mode: ``wb``, or ``w`` for text in UTF-8.
    """
    target = Path(os.path.realpath(path))
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(beside, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
        _sync_folder(target.parent)
    finally:
        beside.unlink(missing_ok=True)


def save_checkpoint(obj: Any, f: StrPath | IO[bytes]) -> None:
    """`torch.save` that replaces a file as a whole or not at all.

    Args:
        obj: tensors, numbers, text, lists and dicts, which ``torch.load(weights_only=True)`` reads.
        f: path, or a file open for writing bytes (written directly).

    Raises:
        UserError: the file cannot be written (no space, no such folder, no permission).
    """
    if not isinstance(f, str | os.PathLike):
        torch.save(obj, f)
        return
    try:
        with atomic_write(f) as file:
            torch.save(obj, file)
    except (OSError, RuntimeError) as complaint:
        err = _what_stopped(complaint)
        if not isinstance(err, OSError):
            raise err from None
        raise UserError(
            f"{os.fspath(f)} cannot be written ({err.strerror}), a file that was there is whole: "
            "make room or choose another --output_dir"
        ) from err


def _what_stopped(error: BaseException) -> BaseException:
    """The interrupt or disk error that PyTorch's writer hides behind a complaint of its own."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError | KeyboardInterrupt):
        found = found.__context__
    return error if found is None else found


def save_on_master(*args: Any, **kwargs: Any) -> None:
    """`save_checkpoint` in the main process, nothing in the others."""
    if is_main_process():
        save_checkpoint(*args, **kwargs)


def _sync_folder(folder: Path) -> None:
    """Bring a rename to the disk; syncing the file alone does not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- reading -------------------------------------------------------------------------------------


def load_checkpoint(path_or_url: StrPath, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint file without running code from it.

    Args:
        path_or_url: a path, or an ``https://``, ``http://`` or ``file://`` address. What comes from
            an address is kept in the folder of `torch.hub`, and its hash compared with its name.
        map_location: where tensors go, as for `torch.load`.

    Returns:
        What was saved: tensors, plain values, and `argparse.Namespace` in files of the original.

    Raises:
        UserError: no such file, failed download, damaged or foreign file, one that would run code.
    """
    source = os.fspath(path_or_url)
    is_url = _URL.match(source) is not None
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            content = _fetch(source, map_location) if is_url else _read(source, map_location)
    except Exception as err:  # a foreign file can make the unpickler raise anything
        raise UserError(f"{source}: {_why_unreadable(err, is_url)}") from err
    if not isinstance(content, dict):
        raise UserError(f"{source}: holds a {type(content).__name__}, not the dict of a checkpoint")
    return content


def model_state(checkpoint: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """The weights in a checkpoint.

    Args:
        checkpoint: has the weights under ``model``, or is a bare state dict itself.
        source: where it came from, for the message.

    Raises:
        UserError: there are no weights in it.
    """
    state = checkpoint.get("model", checkpoint)
    if isinstance(state, Mapping) and state and all(isinstance(v, Tensor) for v in state.values()):
        return dict(state)
    keys = ", ".join(map(str, list(checkpoint)[:_MAX_LISTED])) or "nothing"
    raise UserError(f"{source}: has no weights under the key 'model' (it holds {keys})")


def _read(path: str, map_location: Any) -> Any:
    return torch.load(path, map_location=map_location, weights_only=True)


def _fetch(url: str, map_location: Any) -> Any:
    return torch.hub.load_state_dict_from_url(
        url,
        map_location=map_location,
        progress=is_main_process(),
        check_hash=True,
        weights_only=True,
    )


def _why_unreadable(err: Exception, is_url: bool) -> str:
    """What is wrong with the file, and what to do, from what reading it raised."""
    text = str(err)
    forbidden = _FORBIDDEN_NAME.search(text)
    if forbidden:
        return (
            f"reading it would run code from the file ({forbidden[1]}), which is refused: "
            "save it again with tensors, numbers and text only"
        )
    if isinstance(err, OSError):
        if is_url:
            return f"cannot be downloaded ({err}): fetch it on another machine and give its path"
        return f"cannot be read ({err.strerror}): give the path of a checkpoint file"
    if "invalid hash value" in text:
        return f"is not the file that its name promises ({text}): try again"
    if isinstance(err, EOFError) or "PytorchStreamReader" in text or "unexpected EOF" in text:
        kept = f"delete it in {torch.hub.get_dir()}/checkpoints" if is_url else "copy it again"
        return f"is damaged or cut short: {kept}, or take an earlier one"
    return "is not a checkpoint that PyTorch can read"


# ---- into a model --------------------------------------------------------------------------------


def load_model_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load all weights of a model, which must fit exactly.

    Args:
        model: receives the weights.
        state: state dict, with or without the ``module.`` of DistributedDataParallel.
        source: where it came from, for the message.

    Raises:
        UserError: keys or shapes differ; names the first of them and the flags that would fit.
    """
    state = _without_ddp_prefix(state)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as err:
        differences = _differences(model.state_dict(), state)
        if not differences:
            raise
        flags = " ".join(_fitting_flags(model.state_dict(), state))
        way_out = f"give {flags}, or" if flags else "use"
        raise UserError(
            f"{source} does not fit the model: {_first_of(differences, limit=2)}; "
            f"{way_out} --finetune {source} to load what fits"
        ) from err


@dataclass
class FinetuneReport:
    """What `finetune_model` did; ``str()`` tells it in words.

    Attributes:
        loaded: keys taken as they are.
        resized: what was taken in part, in words.
        skipped: what has another shape, in words.
        missing: keys of the model that the file lacks.
        unused: keys of the file that the model lacks.
    """

    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.resized) + len(self.skipped) + len(self.missing)
        lines = [f"Fine-tuning: {len(self.loaded)} of {total} tensors of the model loaded"]
        for what, entries in (
            ("loaded in part", self.resized),
            ("not loaded, starts fresh", self.skipped),
            ("not in the file, starts fresh", self.missing),
            ("in the file only, not used", self.unused),
        ):
            if entries:
                lines.append(f"  {what}: {_first_of(entries, limit=_MAX_LISTED)}")
        return "\n".join(lines)


def finetune_model(model: nn.Module, state: Mapping[str, Tensor]) -> FinetuneReport:
    """Load what fits and leave the rest of the model as it is.

    A head for other classes is left out. Of the query embeddings the rows that both have are taken.

    Args:
        model: receives the weights.
        state: state dict, with or without the ``module.`` of DistributedDataParallel.

    Returns:
        What was loaded and what was not.

    Raises:
        UserError: nothing fits.
    """
    state = _without_ddp_prefix(state)
    own = model.state_dict()
    report = FinetuneReport(unused=[k for k in state if k not in own and not _is_counter(k)])
    fitting = {}
    for key, mine in own.items():
        weight = _fit(key, mine, state.get(key), report)
        if weight is not None:
            fitting[key] = weight
    if not fitting:
        raise UserError(
            "--finetune: nothing in the checkpoint fits the model, is it a DETR checkpoint?"
        )
    model.load_state_dict(fitting, strict=False)
    return report


def _fit(key: str, mine: Tensor, given: Tensor | None, report: FinetuneReport) -> Tensor | None:
    """The tensor to load under ``key``, noted in ``report``; None to keep what the model has."""
    if given is None:
        if not _is_counter(key):
            report.missing.append(key)
        return None
    if given.shape == mine.shape:
        report.loaded.append(key)
        return given
    if key.endswith("query_embed.weight") and given.shape[1:] == mine.shape[1:]:
        rows = min(len(given), len(mine))
        counts = f"{len(given)} in the file, {len(mine)} in the model"
        report.resized.append(f"{key} ({rows} rows, {counts})")
        return torch.cat([given[:rows].to(mine), mine[rows:]])
    report.skipped.append(_shape_difference(key, mine, given))
    return None


def _without_ddp_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    wrapped = bool(state) and all(key.startswith("module.") for key in state)
    return {key.removeprefix("module.") if wrapped else key: v for key, v in state.items()}


def _is_counter(key: str) -> bool:
    """Batch counters come and go with the kind of batch norm and matter to nobody."""
    return key.endswith(".num_batches_tracked")


def _differences(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """In words: shapes that differ, then keys that only one side has."""
    common = [key for key in own if key in state]
    shapes = [
        _shape_difference(key, own[key], state[key])
        for key in common
        if own[key].shape != state[key].shape
    ]
    missing = [f"{key} is not in the file" for key in own if key not in state]
    extra = [key for key in state if key not in own and not _is_counter(key)]
    return shapes + missing + [f"{key} is in the file only" for key in extra]


def _shape_difference(key: str, mine: Tensor, given: Tensor) -> str:
    return f"{key} is {tuple(given.shape)} in the file and {tuple(mine.shape)} in the model"


def _first_of(entries: Sequence[str], limit: int) -> str:
    more = f", and {len(entries) - limit} more" if len(entries) > limit else ""
    return ", ".join(entries[:limit]) + more


def _fitting_flags(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """The flags, with their values, that would give a model with the weights of ``state``."""
    mine, wanted = _architecture(own), _architecture(state)
    flags = [f"{flag} {wanted[flag]}" for flag in wanted if wanted[flag] != mine.get(flag)]
    for flag, marker in _SWITCHES:
        has, needs = (any(key.endswith(marker) for key in side) for side in (own, state))
        if has != needs:
            flags.append(flag if needs else f"no {flag}")
    if _backbone_shapes(own) != _backbone_shapes(state):
        flags.append("another --backbone")
    return flags


def _architecture(state: Mapping[str, Tensor]) -> dict[str, int | str]:
    """Flag -> value, as far as the shapes of a state dict tell."""
    parts = {key.removeprefix("detr."): value for key, value in state.items()}  # under --masks
    found: dict[str, int | str] = {}
    for flag, key, offset in (
        ("--num_classes", "class_embed.bias", -1),  # the last logit is the no-object class
        ("--num_queries", "query_embed.weight", 0),
        ("--hidden_dim", "input_proj.bias", 0),
        ("--dim_feedforward", "transformer.decoder.layers.0.linear1.bias", 0),
    ):
        if key in parts:
            found[flag] = len(parts[key]) + offset
    for flag, stack in (("--enc_layers", "encoder"), ("--dec_layers", "decoder")):
        layers = {k.split(".")[3] for k in parts if k.startswith(f"transformer.{stack}.layers.")}
        found[flag] = len(layers)
    learned = "backbone.1.row_embed.weight" in parts
    found["--position_embedding"] = "learned" if learned else "sine"
    return found


def _backbone_shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    parts = {key.removeprefix("detr."): value for key, value in state.items()}
    body = {k: v for k, v in parts.items() if k.startswith("backbone.0.body.")}
    return {k: v.shape for k, v in body.items() if not _is_counter(k)}
