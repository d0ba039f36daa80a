"""The page in a browser: folding, cuts, the keyboard, the table, and names that are scripts."""

import page_scenes as scenes
import pytest

pytestmark = pytest.mark.once


def shown(page):
    """The labels of the boxes that can be seen."""
    return [
        e.get_attribute("aria-label").split(",")[0]
        for e in page.locator("#picture [data-id]").all()
    ]


def box(page, name):
    return page.locator(f'#picture [data-id="{name}"]')


def laid_out(page):
    page.wait_for_selector("html[data-busy=no]")


def middle_top(element):
    frame = element.locator(".face").bounding_box()
    return frame["x"] + frame["width"] / 2, frame["y"]


def test_groups_are_closed_and_open_in_place(opened):
    page = opened(scenes.blocks())
    assert shown(page) == ["x", "block", "out", "out"]
    assert "× 4" in box(page, "g0").text_content()
    assert box(page, "g0").get_attribute("aria-expanded") == "false"
    before = middle_top(box(page, "g0"))
    box(page, "g0").dblclick()
    laid_out(page)
    assert shown(page) == ["block", "x", "block_0", "block_1", "block_2", "block_3", "out", "out"]
    assert box(page, "g0").get_attribute("aria-expanded") == "true"
    assert middle_top(box(page, "g0")) == pytest.approx(before, abs=6)
    before = middle_top(box(page, "g2"))
    box(page, "g2").locator(".sign").click()
    laid_out(page)
    assert "block_1_relu" in shown(page) and "block_0_relu" not in shown(page)
    assert middle_top(box(page, "g2")) == pytest.approx(before, abs=6)
    box(page, "g0").dblclick(position={"x": 60, "y": 12})
    laid_out(page)
    assert shown(page) == ["x", "block", "out", "out"]


def test_lines_lead_to_the_closed_group_that_hides_their_ends(opened):
    page = opened(scenes.blocks())
    assert page.locator("#picture .line").count() == 3
    page.get_by_role("button", name="Open all").click()
    laid_out(page)
    assert page.locator("#picture .line").count() == len(scenes.blocks()["edges"])
    page.get_by_role("button", name="Close all").click()
    laid_out(page)
    assert page.locator("#picture .line").count() == 3


def test_boxes_lie_in_their_groups_and_on_no_other(opened):
    page = opened(scenes.blocks())
    page.keyboard.press("o")
    laid_out(page)
    frames = {i: box(page, i).locator(".face").bounding_box() for i in scenes.blocks()["items"]}
    parents = {i: known["parent"] for i, known in scenes.blocks()["items"].items()}

    def inside(a, b):
        a, b = frames[a], frames[b]
        return (
            b["x"] <= a["x"] and a["x"] + a["width"] <= b["x"] + b["width"]
            and b["y"] < a["y"] and a["y"] + a["height"] < b["y"] + b["height"]
        )  # fmt: skip

    def apart(a, b):
        a, b = frames[a], frames[b]
        return (
            a["x"] + a["width"] <= b["x"] or b["x"] + b["width"] <= a["x"]
            or a["y"] + a["height"] <= b["y"] or b["y"] + b["height"] <= a["y"]
        )  # fmt: skip

    for a, parent in parents.items():
        assert parent is None or inside(a, parent), a
        for b, other in parents.items():
            assert a == b or parent != other or apart(a, b), (a, b)


def test_the_panel_says_what_is_pointed_at_and_keeps_what_is_selected(opened):
    page = opened(scenes.blocks())
    panel = page.locator("#panel")
    assert "Kinds of layers" in panel.text_content()
    box(page, "n12").hover()
    text = panel.text_content()
    for word in (
        "out",
        "Dense",
        "(?, 8) float32",
        "72 (frozen)",
        "25 %",
        "embedding/embeddings",
        "units",
    ):
        assert word in text, word
    assert panel.locator(".call code").text_content() == 'kg.select(model, "out")'
    page.mouse.move(5, 5)
    assert "Kinds of layers" in panel.text_content()
    box(page, "n12").click()
    page.mouse.move(5, 5)
    assert "72 (frozen)" in panel.text_content()
    page.keyboard.press("Escape")
    assert "Kinds of layers" in panel.text_content()


def test_a_call_is_copied(opened):
    page = opened(scenes.blocks())
    box(page, "n12").click()
    page.locator("#panel .copy").click()
    page.wait_for_selector("#panel .copy:text('Copied')")
    page.locator("#search").focus()
    page.keyboard.press("Control+V")
    assert page.locator("#search").input_value() == 'kg.select(model, "out")'


def test_a_call_is_selected_where_it_cannot_be_copied(opened):
    page = opened(scenes.blocks())
    page.add_init_script(
        "Object.defineProperty(navigator, 'clipboard', {value: undefined});"
        "document.execCommand = () => false;"
    )
    page.reload()
    box(page, "n12").click()
    page.locator("#panel .copy").click()
    page.wait_for_selector("#panel .copy:text('Press Ctrl+C')")
    assert page.evaluate("String(getSelection())") == 'kg.select(model, "out")'


def test_a_cut_shows_two_stages(opened):
    page = opened(scenes.blocks(90))
    rows = page.locator("#cut-list li")
    assert rows.count() == 90
    row = rows.nth(1)
    row.locator("button").first.click()
    text = row.text_content()
    for word in ("432 parameters", "19,080 parameters", "32 B a sample", "2.2 %", "98 %"):
        assert word in text, word
    assert row.locator(".call code").text_content() == 'kg.split(model, "block_1_add")'
    assert "both" in box(page, "g0").get_attribute("class")
    assert "first" in box(page, "i0").get_attribute("class").split()
    assert "second" in box(page, "o0").get_attribute("class").split()
    row.get_by_role("button", name="Show it in the picture").click()
    laid_out(page)
    sides = {i: box(page, i).get_attribute("class").split() for i in ("g1", "n5", "g3")}
    assert "first" in sides["g1"] and "first" in sides["n5"] and "second" in sides["g3"]
    assert page.locator(".scissors").count() == 1
    row.locator("button").first.click()
    assert page.locator(".scissors, .box.first, .box.second, .box.both").count() == 0


def test_a_long_list_of_cuts_scrolls(opened):
    page = opened(scenes.blocks(90))
    last = page.locator("#cut-list li button").last
    last.click()
    assert last.bounding_box()["y"] < 850
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")


def focused(page):
    return page.evaluate("document.activeElement.dataset.id || document.activeElement.id")


def test_the_keyboard(opened):
    page = opened(scenes.blocks())
    page.keyboard.press("/")
    assert focused(page) == "search"
    page.keyboard.press("Escape")
    box(page, "i0").focus()
    page.keyboard.press("Tab")
    assert focused(page) == "g0"
    page.keyboard.press("Enter")
    laid_out(page)
    assert focused(page) == "g0"
    page.keyboard.press("ArrowDown")
    assert focused(page) == "g1"
    page.keyboard.press("ArrowDown")
    assert focused(page) == "g2"
    page.keyboard.press("Enter")
    laid_out(page)
    page.keyboard.press("ArrowDown")
    for name in ("n3", "n4", "n5"):
        assert focused(page) == name
        page.keyboard.press("ArrowDown")
    assert focused(page) == "g3"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert box(page, "n5").get_attribute("aria-pressed") == "true"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.closest('#panel') !== null")
    page.keyboard.press("Escape")
    assert focused(page) == "n5"
    page.keyboard.press("Backspace")
    laid_out(page)
    assert box(page, "g2").get_attribute("aria-expanded") == "false"
    page.keyboard.press("Home")
    assert focused(page) == "i0"
    page.keyboard.press("End")
    assert focused(page) == "o0"
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()


def test_arrows_go_to_the_box_beside(opened):
    items = {n: scenes.item(n) for n in "abcd"}
    page = opened(scenes.scene(items, [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]))
    box(page, "b").focus()
    page.keyboard.press("ArrowRight")
    assert focused(page) == "c"
    page.keyboard.press("ArrowLeft")
    assert focused(page) == "b"


def test_focus_can_be_seen(opened):
    page = opened(scenes.blocks())
    page.keyboard.press("/")
    while focused(page) != "g0":
        page.keyboard.press("Tab")
    width = "getComputedStyle(document.activeElement.querySelector('.face')).strokeWidth"
    assert page.evaluate(width) == "3px"


def test_zoom_and_pan(opened):
    page = opened(scenes.blocks())
    wide = box(page, "g0").locator(".face").bounding_box()
    page.keyboard.press("+")
    assert box(page, "g0").locator(".face").bounding_box()["width"] > wide["width"] * 1.2
    page.keyboard.press("0")
    assert box(page, "g0").locator(".face").bounding_box() == pytest.approx(wide, abs=0.6)
    x, y = wide["x"] + 60, wide["y"] + 20
    page.mouse.click(x, y)
    page.mouse.move(x, y)
    page.mouse.wheel(0, -200)
    now = box(page, "g0").locator(".face").bounding_box()
    assert now["width"] > wide["width"] * 1.2
    assert now["x"] < x < now["x"] + now["width"]
    page.mouse.down()
    page.mouse.move(x + 50, y + 80, steps=4)
    page.mouse.up()
    moved = box(page, "g0").locator(".face").bounding_box()
    assert moved["x"] - now["x"] == pytest.approx(50, abs=1)
    assert moved["y"] - now["y"] == pytest.approx(80, abs=1)
    assert page.locator(".box.chosen").get_attribute("data-id") == "g0"


def test_the_table_has_every_node(opened):
    page = opened(scenes.blocks())
    page.get_by_role("button", name="Table").click()
    table = page.get_by_role("table")
    assert table.locator("caption").text_content() == "15 nodes of network, in order"
    rows = table.locator("tbody tr")
    assert rows.count() == 15
    assert [c.strip() for c in rows.nth(1).locator("th, td").all_text_contents()] == [
        "block_0_dense", "Dense", "(?, 8) float32", "72", "25 %", "trainable; in block / block_0",
    ]  # fmt: skip
    assert "frozen; tied: embedding/embeddings" in rows.nth(13).text_content()
    page.fill("#search", "*_relu")
    assert table.locator("tr.lit").count() == 4
    page.get_by_role("button", name="Table").click()
    assert box(page, "g0").is_visible()


def test_names_that_are_scripts(opened):
    page = opened(scenes.forged(), record_har_path=None)
    page.keyboard.press("o")
    laid_out(page)
    assert page.title() == scenes.SCRIPT
    assert page.locator("h1").text_content() == scenes.SCRIPT
    for i in range(10):
        box(page, f"n{i}").click(force=True)
        page.locator("#cut-list button").first.click()
        page.fill(
            "#search",
            scenes.forged()["items"][f"n{i}"]["label"].encode("utf-8", "replace").decode(),
        )
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Table").click()
    assert page.locator("img, iframe, object, a, h1 *, #table script").count() == 0
    assert page.locator("script").count() == 4
