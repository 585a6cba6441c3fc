"""A page for people: images one at a time or many at a glance, in as many browsers of this machine as are wanted.

    web_oracle.py    what the loop calls
    queue.py         which items are open, who is shown which, what was said: no web in it
    items.py         what there is to see of each item
    status.py        what the computer is doing meanwhile, and how accurate the model is
    state.py         both, as the page is told them
    guard.py         who may call, and how much they may send
    server.py        the addresses
    serving.py       the port, the token and the thread
    page.*, *.js     what the browser gets; no build step, and nothing from elsewhere

Every answer is in the journal before its page hears that it was taken.
"""

from pathlib import Path
from typing import Literal

from activebdl.data.dataset import ActiveDataset
from activebdl.oracles import Oracle, oracle
from activebdl.oracles.web.web_oracle import WebOracle

__all__ = ["WebOracle"]


@oracle("web")
def web(
    dataset: ActiveDataset,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    open_browser: bool = False,
    predictions: Literal["shown", "hidden"] = "shown",
    cost: float = 0.0,
    annotator: str = "web",
    folder: Path | None = None,
) -> Oracle:
    """Asks people at a page on this machine; see `WebOracle`."""
    return WebOracle(
        host=host,
        port=port,
        open_browser=open_browser,
        predictions=predictions,
        cost=cost,
        annotator=annotator,
        folder=folder,
    )
