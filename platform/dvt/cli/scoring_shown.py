"""How far the scoring of a set of images is, for commands that do it on this machine."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def scoring_shown(console: Console, name: str, num_images: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, a line in a log; gives what to tell the number of images of each batch.

    Args:
        console: Where a person reads along.
        name: What the images are, as `test`.
        num_images: How many there are.
    """
    title = f"scoring {num_images:,} {name} images"
    if not console.is_terminal:
        console.print(title, highlight=False)
        yield lambda count: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=num_images)
        yield lambda count: progress.advance(task, count)
