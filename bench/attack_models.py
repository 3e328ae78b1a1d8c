"""Model folders of strangers: damaged safetensors, pickles, code of their own, and paths that lead out."""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"
Header = dict[str, Any]


def parts(file: Path) -> tuple[Header, bytes]:
    """The header and the data of a safetensors file."""
    content = file.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def written(file: Path, header: Header | bytes, data: bytes, *, length: int | None = None) -> None:
    """Write a safetensors file; `length` is the header's length as the file claims it."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)


def _header(change: Callable[[Header, list[str]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        header, data = parts(folder / WEIGHTS)
        change(header, sorted(name for name in header if name != "__metadata__"))
        written(folder / WEIGHTS, header, data)

    return apply


def _length(length: int) -> Callable[[Path], None]:
    return lambda folder: written(folder / WEIGHTS, *parts(folder / WEIGHTS), length=length)


def _reshaped(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    name = max(tensors, key=lambda key: tensors[key].numel())
    tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def _not_numbers(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    tensors[min(tensors)].fill_(float("nan"))
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def _outside(folder: Path) -> None:
    header, _ = parts(folder / WEIGHTS)
    (folder / WEIGHTS).rename(folder.parent / "elsewhere.safetensors")
    places = {name: "../elsewhere.safetensors" for name in header if name != "__metadata__"}
    index = {"metadata": {}, "weight_map": places}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index), encoding="utf-8")


def _pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    call = f"cos\nsystem\n(S'touch {mark(folder)}'\ntR."  # protocol 0, written by hand
    (folder / "pytorch_model.bin").write_bytes(call.encode())


def _pickled_beside(folder: Path) -> None:
    _pickled(folder)
    written(folder / "other.safetensors", {}, b"")


def _own_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "evil.py").write_text(f"open({str(mark(folder))!r}, 'w').close()\n", encoding="utf-8")


def mark(folder: Path) -> Path:
    """A file that is there if something was executed."""
    return folder.parent / "executed"


VARIANTS: Mapping[str, Callable[[Path], None]] = {
    "wrong shape": _reshaped,
    "a tensor missing": _header(lambda h, names: h.pop(names[0])),
    "a tensor of another name": _header(lambda h, names: h.update({"other": h.pop(names[0])})),
    "overlapping offsets": _header(lambda h, n: h[n[1]].update(data_offsets=h[n[0]]["data_offsets"])),
    "offsets beyond the end": _header(lambda h, n: h[n[-1]].update(data_offsets=[0, 1 << 50])),
    "shape larger than its data": _header(lambda h, n: h[n[0]].update(shape=[1 << 40, 1 << 20])),
    "negative shape": _header(lambda h, n: h[n[0]].update(shape=[-1, -1])),
    "unknown type": _header(lambda h, n: h[n[0]].update(dtype="F7")),
    "header length 0": _length(0),
    "header length 2^60": _length(1 << 60),
    "header length beyond the file": _length(1 << 25),
    "header no JSON": lambda f: written(f / WEIGHTS, b"\xff" * 64, b""),
    "header 100 000 deep": lambda f: written(f / WEIGHTS, b"[" * 100_000, b""),
    "cut short": lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-1000]),
    "empty file": lambda f: (f / WEIGHTS).write_bytes(b""),
    "weights that are no numbers": _not_numbers,
    "index that leads out of the folder": _outside,
    "pickled weights": _pickled,
    "pickled weights beside an empty .safetensors": _pickled_beside,
    "code of its own (auto_map)": _own_code,
    "config.json 100 000 deep": lambda f: (f / "config.json").write_bytes(b"[" * 100_000),
    "config.json with huge sizes": lambda f: _config(f, hidden_size=1 << 40, vocab_size=1 << 40),
    "config.json with negative sizes": lambda f: _config(f, num_hidden_layers=-3, num_attention_heads=0),
}


def _config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | values), encoding="utf-8")


def outcomes(place: Path, names: list[str]) -> None:
    """Load every variant; prints one JSON object per variant: name, error class, message, executed."""
    from alignloop.errors import UserError
    from alignloop.model.load import load_model
    from alignloop.model.save import save_model
    from alignloop.model.tiny import tiny_model

    start = place / "start"
    save_model(*tiny_model(), start)
    for name in names:
        folder = place / name.replace("/", "-").replace(" ", "-") / "model"
        shutil.copytree(start, folder)
        VARIANTS[name](folder)
        kind, message = "loaded", ""
        try:
            with contextlib.redirect_stdout(sys.stderr):
                load_model(str(folder))
        except UserError as error:
            kind, message = type(error).__name__, str(error)
        except Exception as error:  # noqa: BLE001 - a fall of any kind is what is looked for
            kind, message = f"traceback {type(error).__name__}", str(error)
        row = {"name": name, "kind": kind, "message": message.replace(str(folder), "FOLDER")}
        print(json.dumps(row | {"ran": mark(folder).exists()}), flush=True)


if __name__ == "__main__":
    outcomes(Path(sys.argv[1]), sys.argv[2:] or list(VARIANTS))
