"""``secateurs export``: write a model as a file of another runtime, checked against PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from secateurs.cli.options import AsJson, Quiet, TrustRemoteCode, Verbose

__all__ = ["export"]


def export(
    model: Annotated[str, typer.Argument(help="Folder in Hugging Face format, or hub id: a dense or a pruned model.")],
    to: Annotated[str, typer.Option(help="Runtime of the file: onnx, openvino or torch-export.")],
    out: Annotated[
        Path | None, typer.Option(help="The new folder. Default: the name of the model, a hyphen and the runtime.")
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            help="Text file, one text a line, on which the file is checked. Default: a dozen texts of all lengths."
        ),
    ] = None,
    int8: Annotated[
        bool,
        typer.Option(
            help="Write int8: onnx quantizes activations when it runs; openvino is calibrated on the texts (secateurs[int8])."
        ),
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write a model as a file of another runtime, checked against PyTorch."""
    from secateurs.cli.console import configure_logging, console
    from secateurs.export.export_model import export_model
    from secateurs.export.real_inputs import TEXTS, read_texts

    configure_logging(verbose, quiet=quiet)
    folder = out or Path(f"{model.rstrip('/').rpartition('/')[2]}-{to}{'-int8' if int8 else ''}")
    made = export_model(
        model,
        to,
        folder,
        texts=TEXTS if texts is None else read_texts(texts),
        int8=int8,
        trust_remote_code=trust_remote_code,
    )
    if as_json:
        typer.echo(json.dumps(made.to_dict(), indent=1))
        return
    apart = made.difference
    console.print(f"{made.folder}: {made.bytes / 1e6:.1f} MB for {made.runtime}")
    console.print(
        f"largest difference from PyTorch: {apart.largest:.2g} in {apart.output}, over {apart.batches} batches"
        + ("" if apart.same_choice is None else f"; the same choice in {apart.same_choice:.1%}")
    )
