"""What cells of an attached notebook show, and widgets of other packages: as if the kernel were here."""

from __future__ import annotations

import pytest
from notebook_frontend import Frontend, Message

pytestmark = pytest.mark.jupyter

RICH = r"""
from IPython.display import HTML, SVG, Audio, Image, JSON, Javascript, Latex, Markdown, Math, Video
display(HTML("<b>bold</b>"), Latex(r"\(x^2\)"), Math("x^2"), Markdown("# x"), JSON({"x": [1]}))
display(SVG("<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"), Javascript("1"))
display(Audio(bytes(range(256)) * 20, rate=8000), Image(b"\x89PNG\r\n\x1a\n" + bytes(50), format="png"))
display(Video(b"abc", embed=True, mimetype="video/mp4"))
display({"text/html": "<i>raw</i>", "application/x-own+json": {"a": 1}}, raw=True, metadata={"isolated": True})"""

ANYWIDGET = """\
import anywidget, traitlets
class Counter(anywidget.AnyWidget):
    _esm = "export default { render({ model, el }) {} }"
    value = traitlets.Int(0).tag(sync=True)
    raw = traitlets.Bytes(b"").tag(sync=True)
counter = Counter(raw=b"\\x00\\xff")
counter.on_msg(lambda widget, content, buffers: widget.send({"got": content}, [bytes(buffers[0])[::-1]]))
counter"""

FIGURE = """\
%matplotlib widget
import matplotlib.pyplot as plt
figure = plt.figure(figsize=(2, 1)); plt.plot([1, 2]); plt.show()"""


def shown(ran_here: Frontend, code: str) -> list[Message]:
    bundles = ran_here.run(code).contents("display_data")
    return [
        {"data": one["data"], "metadata": one["metadata"]} for one in bundles if "mlvm" not in one["metadata"]
    ]


def test_rich_output_is_what_it_is_on_the_host(notebook: Frontend) -> None:
    there, here = shown(notebook, RICH), shown(notebook, f"%%local\n{RICH}")

    assert there == here
    kinds = {kind for one in there for kind in one["data"]}
    assert {
        "text/html",
        "text/latex",
        "text/markdown",
        "image/svg+xml",
        "image/png",
        "application/json",
    } <= kinds
    assert any("<audio" in one["data"].get("text/html", "") for one in there)


def test_an_anywidget_lives_both_ways(notebook: Frontend) -> None:
    ran = notebook.run(ANYWIDGET)
    assert ran.reply["status"] == "ok", ran.reply
    (opened,) = [
        one
        for one in ran.heard
        if one["msg_type"] == "comm_open" and "_esm" in one["content"]["data"]["state"]
    ]
    comm = opened["content"]["comm_id"]

    update = {"method": "update", "state": {"value": 7}, "buffer_paths": []}
    notebook.comm("comm_msg", {"comm_id": comm, "data": update})
    heard = notebook.comm(
        "comm_msg", {"comm_id": comm, "data": {"method": "custom", "content": "hi"}}, buffers=[b"ab\0"]
    )

    assert [bytes(one) for one in opened["buffers"]] == [b"\0\xff"]
    assert notebook.run("print(counter.value)").text == "7\n"
    (answer,) = [one for one in heard if one["msg_type"] == "comm_msg"]
    assert answer["content"]["data"]["content"] == {"got": "hi"}
    assert [bytes(one) for one in answer["buffers"]] == [b"\0ba"]


def test_an_interactive_figure_draws(notebook: Frontend) -> None:
    ran = notebook.run(FIGURE)
    assert ran.reply["status"] == "ok", ran.reply
    (canvas,) = [
        one["comm_id"]
        for one in ran.contents("comm_open")
        if one["data"]["state"].get("_model_name") == "MPLCanvasModel"
    ]

    def said(content: Message) -> list[Message]:
        return notebook.comm(
            "comm_msg", {"comm_id": canvas, "data": {"method": "custom", "content": content}}
        )

    heard = [
        one for kind in ("initialized", "send_image_mode", "refresh", "draw") for one in said({"type": kind})
    ]
    pictures = [bytes(buffer) for one in heard for buffer in one.get("buffers", ())]
    assert any(picture.startswith(b"\x89PNG") for picture in pictures)
