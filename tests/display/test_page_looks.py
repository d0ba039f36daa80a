"""The page in other places: dark, narrow, in a notebook, large, and as a diff."""

import html

import page_scenes as scenes
import pytest
from test_page_browser import box, laid_out, shown

from keras_graft.display.page import page as html_of
from keras_graft.display.page import page_of_tables

pytestmark = pytest.mark.once

GROUND = "getComputedStyle(document.body).backgroundColor"


def lightness(page):
    return sum(page.evaluate(f"{GROUND}.match(/[0-9.]+/g).slice(0, 3).map(Number)"))


def test_dark_as_the_system_says_and_as_the_switch_says(opened):
    page = opened(scenes.blocks(), color_scheme="dark")
    assert lightness(page) < 150
    page.get_by_role("button", name="Light or dark").click()
    assert lightness(page) > 600
    page.reload()
    page.wait_for_selector("html[data-ready=yes]")
    assert lightness(page) > 600
    page.emulate_media(color_scheme="light")
    page.get_by_role("button", name="Light or dark").click()
    assert lightness(page) < 150


def test_reduced_motion(opened):
    page = opened(scenes.blocks(), reduced_motion="reduce")
    name = "getComputedStyle(document.querySelector('#busy span')).animationName"
    assert page.evaluate(name) == "none"
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(name) == "turn"


def test_a_narrow_window(opened):
    page = opened(scenes.blocks(), width=400, height=700)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    for name in ("Open all", "Table", "Help", "Cuts"):
        frame = page.get_by_role("button", name=name, exact=True).bounding_box()
        assert frame["x"] >= 0 and frame["x"] + frame["width"] <= 400
    assert not page.locator("#cuts").is_visible()
    box(page, "g0").click()
    panel = page.locator("#panel")
    assert panel.is_visible() and panel.bounding_box()["y"] > 300
    box(page, "o0").focus()
    page.keyboard.press("ArrowUp")
    page.wait_for_timeout(400)
    frame = box(page, "n12").bounding_box()
    assert frame["y"] + frame["height"] < panel.bounding_box()["y"]
    page.locator("#unpin").click()
    assert not panel.is_visible()
    page.get_by_role("button", name="Cuts").click()
    page.locator("#cut-list button").first.click()
    assert page.locator("#cut-list .detail").is_visible()


@pytest.mark.parametrize("scene", [scenes.blocks(), scenes.flat(400)])
def test_in_the_frame_of_a_notebook(opened, scene):
    text = html.escape(html_of(scene), quote=True)
    page = opened(
        f'<!DOCTYPE html><iframe sandbox="allow-scripts" width=900 height=600 srcdoc="{text}"></iframe>'
    )
    frame = page.frame_locator("iframe")
    frame.locator("html[data-ready=yes]").wait_for()
    first = frame.locator("#picture [data-id]").first
    assert len(page.workers) == (len(scene["items"]) > 120)
    first.click()
    assert frame.locator("#panel .call").is_visible()
    frame.get_by_role("button", name="Light or dark").click()
    frame.locator("#search").fill("*1*")
    assert "match" in frame.locator("#matches .count").text_content()


def test_a_large_network_is_laid_out_in_a_worker(opened):
    page = opened(scenes.scene(scenes.flat(2)["items"], []))
    assert len(page.workers) == 0
    page = opened(scenes.flat(1000))
    assert len(page.workers) == 1
    assert len(shown(page)) == 1000


def test_the_page_answers_while_it_lays_out(opened):
    scene = scenes.flat(900)
    scene["items"] = {"g0": scenes.group("all", "block")} | scene["items"]
    for item in list(scene["items"].values())[1:]:
        item["parent"] = "g0"
    page = opened(scene)
    assert shown(page) == ["all"] and not page.locator("#busy").is_visible()
    box(page, "g0").focus()
    page.keyboard.press("Enter")
    page.locator("#busy").wait_for()
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    assert page.locator("html").get_attribute("data-busy") == "yes"
    page.wait_for_selector("html[data-busy=no]")
    assert not page.locator("#busy").is_visible() and len(shown(page)) == 901


def test_without_workers_it_is_laid_out_too(opened):
    page = opened(scenes.flat(300))
    page.add_init_script("window.Worker = function () { throw new Error('no workers here'); }")
    page.reload()
    page.wait_for_selector("html[data-ready=yes]")
    assert len(page.workers) == 0 and len(shown(page)) == 300


def test_a_diff_is_told_by_signs_and_words(opened):
    page = opened(scenes.diff())
    assert "first" in shown(page)  # what changed is open at once
    signs = {
        i: box(page, i).locator(".corner").all_text_contents() for i in ("n0", "n1", "n2", "n3")
    }
    assert signs == {"n0": [], "n1": ["~"], "n2": ["−"], "n3": ["+"]}
    for name, word in (("n0", "kept"), ("n1", "changed"), ("n2", "dropped"), ("n3", "new")):
        assert f", {word}" in box(page, name).get_attribute("aria-label")
    assert "output may differ" in box(page, "o0").get_attribute("aria-label")
    assert box(page, "o0").locator(".pill.differs").count() == 1
    page.locator("#legend summary").click()
    assert [t.strip() for t in page.locator("#legend li").all_text_contents()[:4]] == [
        "=kept", "+new", "−dropped", "~changed",
    ]  # fmt: skip
    page.keyboard.press("c")
    laid_out(page)
    assert page.locator(".corner").all_text_contents() == ["+1", "−1", "~1"]
    page.locator(".changes button").nth(1).click()
    laid_out(page)
    assert page.locator(".box.chosen").get_attribute("data-id") == "n2"
    page.keyboard.press("Escape")
    assert page.locator(".changes li").all_text_contents() == [
        "~secondchanged", "−reludropped", "+gelunew",
    ]  # fmt: skip
    page.keyboard.press("t")
    column = page.locator("#table tbody td:first-child").all_text_contents()
    assert column == ["", "= kept", "~ changed", "− dropped", "+ new", ""]


def test_the_tables_of_a_report(opened):
    page = opened(
        page_of_tables("Cuts of <b>", [("74 cuts", ["cut", "bytes"], [["<i>a</i>", 12345]])])
    )
    assert page.locator("h1").text_content() == "Cuts of <b>"
    assert page.locator("td").all_text_contents() == ["<i>a</i>", "12,345"]
    before = lightness(page)
    page.get_by_role("button", name="Light or dark").click()
    assert abs(lightness(page) - before) > 400


def test_marks_of_shared_tied_frozen_and_trainable(opened):
    items = {
        "n0": scenes.item("a", shared="a (2 calls)"),
        "n1": scenes.item("b", ties=["a/kernel"]),
        "n2": scenes.item("c", state="frozen"),
        "n3": scenes.item("d", state="mixed"),
        "n4": scenes.item("e", state="none", parameters=0),
    }
    page = opened(scenes.scene(items, [("n0", "n1"), ("n1", "n2"), ("n2", "n3"), ("n3", "n4")]))
    assert box(page, "n0").locator(".pill").all_text_contents() == ["shared"]
    assert box(page, "n1").locator(".pill").all_text_contents() == ["tied"]
    marks = [box(page, f"n{i}").locator(".state title").all_text_contents() for i in range(5)]
    assert marks == [["trainable"], ["trainable"], ["frozen"], ["partly frozen"], []]
    page.locator("#legend summary").click()
    legend = page.locator("#legend").text_content()
    for word in ("trainable", "frozen", "partly frozen", "called more than once", "another layer"):
        assert word in legend, word
