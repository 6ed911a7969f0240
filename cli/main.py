"""The `cuggu` command. Every file of commands has a `register(app)` and one line below."""

import typer

from cli import (
    account,
    audit,
    credits,
    demo,
    doctor,
    generate,
    jobs,
    pause,
    queue,
    serve,
    service_token,
    simulate,
    staff,
    storage,
    token,
    watch,
)

app = typer.Typer(
    name="cuggu",
    help="Cuggu photos: one portrait in, four wedding photos out.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_show_locals=False,  # locals hold tokens and addresses with passwords
)


@app.callback()
def _cuggu() -> None:
    """Keeps `serve` a subcommand while it is the only one."""


serve.register(app)
demo.register(app)
generate.register(app)
watch.register(app)
token.register(app)
credits.register(app)
doctor.register(app)
jobs.register(app)
pause.register(app)
staff.register(app)
service_token.register(app)
account.register(app)
audit.register(app)
queue.register(app)
storage.register(app)
simulate.register(app)


if __name__ == "__main__":
    app()
