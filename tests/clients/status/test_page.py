"""The status page in a real browser: what people see of a site, and what they can do there."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from clients.status.conftest import NARROW
from clients.status.site import NOW, Site
from fastapi import Header, HTTPException, Request
from monailabel.config import settings
from monailabel.endpoints.user.auth import User, get_current_user
from playwright.sync_api import Page, expect

EVIL = '<img src=x onerror="window.stolen = true">'
LOADED = "image => image.complete && image.naturalWidth > 100"


def versions_of(page: Page) -> list[str]:
    return page.locator("#versions tbody th").evaluate_all("all => all.map((th) => th.firstChild.data)")


def dice_at(page: Page, y: float) -> float:
    """The Dice of a height in the chart, by two lines of its own grid."""
    ticks = page.locator("#rounds .grid").evaluate_all(
        "all => all.map((line) => [Number(line.getAttribute('y1')), Number(line.dataset.tick)])"
    )
    (low, first), (high, last) = ticks[0], ticks[-1]
    return first + (y - low) / (high - low) * (last - first)


def test_it_says_what_is_served_and_what_each_version_was(show, site, keep):
    page = show(site)
    served = page.locator("#served")
    expect(served).to_contain_text("biosam2_nano-v5")
    expect(served).to_contain_text(site.versions.get(5).about["checkpoint"])
    expect(served).to_contain_text("cpu")
    assert versions_of(page) == ["v5", "v4", "v3", "v2", "v1", "base"]
    newest = page.locator("#versions tr[data-version='5']")
    for words in (
        "0.812 → 0.859",
        "+0.047",
        "+0.017 to +0.077",
        "−0.003",
        "15 to train",
        "5 held out",
        "served",
    ):
        expect(newest).to_contain_text(words)
    expect(page.locator("#versions tr[data-version='4']")).to_contain_text(
        "Not better by more than the noise."
    )
    expect(newest.get_by_role("button")).to_have_count(0)
    expect(page.locator("#job-state")).to_have_text("No training has run yet.")
    expect(page.locator("#retraining")).to_contain_text("--conf retrain")
    for image in page.locator("#worst img").all():
        image.scroll_into_view_if_needed()
    expect(page.locator("#worst img")).to_have_count(6)
    keep(page, "light")
    page.emulate_media(color_scheme="dark")
    keep(page, "dark")


def test_the_points_of_the_chart_stand_where_their_dice_is(show, site):
    page = show(site)
    for name, shift in (("", 0.0), ("caudate", 0.05), ("thalamus", -0.05)):
        page.locator("#rounds-structure").select_option(name)
        for number, dice in enumerate((0.704, 0.771, 0.812, 0.806, 0.859), start=1):
            point = page.locator(f"#rounds circle[data-version='{number}']")
            place = float(point.get_attribute("cy") or "nan")
            assert dice_at(page, place) == pytest.approx(dice + shift, abs=0.001)
            whisker = point.locator("xpath=..").locator(".whisker").get_attribute("d")
            ends = re.match(r"M[\d.]+,([\d.]+)V([\d.]+)", whisker or "")
            assert ends is not None
            high, low = (dice_at(page, float(end)) for end in ends.groups())
            assert (low, high) == pytest.approx((dice + shift - 0.04, dice + shift + 0.04), abs=0.001)
    expect(page.locator("#rounds .round.kept")).to_have_count(1)
    expect(page.locator("#rounds circle.ring")).to_have_count(1)
    line = page.locator("#rounds .served").get_attribute("points") or ""
    heights = [dice_at(page, float(point.split(",")[1])) for point in line.split()]
    page.locator("#rounds-structure").select_option("")
    assert heights == pytest.approx([d - 0.05 for d in (0.612, 0.704, 0.771, 0.812, 0.812, 0.859)], abs=0.001)


def test_labels_are_counted_per_structure_and_week(show, site):
    page = show(site)
    expect(page.locator("#labels-total")).to_have_text("46 of 54 images labelled")
    bars = page.locator("#labels-structures li")
    assert bars.locator(".label").all_inner_texts() == ["caudate", "putamen", "thalamus"]
    assert bars.locator(".number").all_inner_texts() == ["46", "30", "15"]
    widths = bars.locator(".bar").evaluate_all("all => all.map((bar) => bar.getBoundingClientRect().width)")
    assert [w / widths[0] for w in widths] == pytest.approx([1, 30 / 46, 15 / 46], abs=0.01)
    for value, total in (("", 46), ("2", 15)):
        page.locator("#weeks-structure").select_option(value)
        told = page.locator("#labels-weeks .bar title").all_text_contents()
        assert sum(int(re.search(r": (\d+) label", words)[1]) for words in told) == total


def test_the_worst_cases_are_shown_with_their_dice(show, site, keep):
    page = show(site)
    first = page.locator("#worst figure").first
    expect(first).to_contain_text("0.410")
    expect(first).to_contain_text("case00")
    first.scroll_into_view_if_needed()
    page.wait_for_function(f"() => [...document.querySelectorAll('#worst img')].every({LOADED})")
    first.get_by_role("button").click()
    expect(page.locator("#large-picture")).to_be_visible()
    keep(page, "picture", whole=False)
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#large")).to_be_hidden()


def test_progress_moves_with_the_training_and_it_can_be_cancelled(show, site, trainings, keep):
    trainings.begin()
    begun = (datetime.now(UTC) - timedelta(minutes=2)).isoformat(timespec="seconds")
    site.progress(state="running", message="training", started=begun, step=120, steps=800, loss=0.3127)
    page = show(site)
    bar = page.locator("#job-bar")
    expect(page.locator("#job-state")).to_have_text("A training is running.")
    assert bar.evaluate("bar => [bar.value, bar.max]") == [120, 800]
    expect(page.locator("#job-figures")).to_contain_text("0.313")
    expect(page.locator("#job-figures")).to_contain_text("about 11 minutes")
    expect(page.locator("#train")).to_be_hidden()
    table = page.locator("#versions table").element_handle()
    site.progress(state="running", message="training", started=begun, step=480, steps=800, loss=0.21)
    expect(page.locator("#job-figures")).to_contain_text("480 of 800")
    assert bar.evaluate("bar => bar.value") == 480
    assert page.evaluate("table => table.isConnected", table), "a table that has not changed was drawn again"
    keep(page, "training")
    page.locator("#cancel").click()
    page.get_by_role("button", name="Keep as it is").click()
    assert trainings.asked == ["begin"]
    page.locator("#cancel").click()
    page.locator("#ask-yes").click()
    expect(page.locator("#job-answer")).to_have_text("The training was cancelled.")
    expect(page.locator("#job-state")).to_have_text("The last training was cancelled.")
    assert trainings.asked == ["begin", "end"]
    expect(bar).to_be_hidden()


def test_a_training_is_started_and_the_answer_told_in_words(show, site, trainings):
    page = show(site)
    trainings.refusal = (429, "++++++++++ Train Task is Already Running")
    page.locator("#train").click()
    expect(page.locator("#job-answer")).to_have_text("A training is running already.")
    trainings.refusal = (400, "max_epochs must be at least 1, not 0.")
    page.locator("#train").click()
    expect(page.locator("#job-answer")).to_have_text("max_epochs must be at least 1, not 0.")
    trainings.refusal = None
    page.locator("#train").click()
    expect(page.locator("#job-answer")).to_contain_text("begins in a moment")
    expect(page.locator("#job-state")).to_have_text("A training is starting.")
    expect(page.locator("#job-bar")).to_be_visible()
    expect(page.locator("#train")).to_be_hidden()


def test_another_version_is_served_once_it_is_confirmed(show, site, keep):
    page = show(site)
    posted: list[str] = []
    page.on("request", lambda request: request.method == "POST" and posted.append(request.url))
    button = page.get_by_role("button", name="Serve version 4")
    button.click()
    expect(page.locator("#ask")).to_contain_text("It was kept, not published")
    keep(page, "confirm", whole=False)
    page.keyboard.press("Escape")
    expect(page.locator("#ask")).to_be_hidden()
    assert posted == []
    button.click()
    page.locator("#ask-yes").click()
    expect(page.locator("#served")).to_contain_text("biosam2_nano-v4")
    expect(page.locator("#versions-answer")).to_have_text("From now on, version 4 is served.")
    assert [url.split("/biosam2/")[1] for url in posted] == ["versions/4/serve"]
    assert site.versions.served_number() == 4
    page.get_by_role("button", name="Serve the base checkpoint").click()
    page.locator("#ask-yes").click()
    expect(page.locator("#served")).to_contain_text("The base checkpoint itself")


def test_a_version_that_cannot_be_served_is_answered_with_the_reason(show, site):
    page = show(site)
    site.versions.get(2).checkpoint.write_bytes(b"other weights")
    page.get_by_role("button", name="Serve version 2").click()
    page.locator("#ask-yes").click()
    expect(page.locator("#versions-answer")).to_contain_text("checkpoint of version 2 is damaged")
    expect(page.locator("#served")).to_contain_text("biosam2_nano-v5")


def test_names_are_shown_as_text_whatever_they_are(show, tmp_path, trainings):
    site = Site(tmp_path, [("scan", NOW, [EVIL, "liver"])])
    version = site.round(0.5, 0.7, structures={EVIL: (0.5, 0.7), "liver": (0.4, 0.6)}, reason=EVIL, code=EVIL)
    site.hold_out(version, {(EVIL, EVIL): 0.3})
    site.retraining = type("R", (), {"status": lambda _: {"plan": EVIL, "waiting_for": EVIL, "due": True}})()
    trainings.begin()
    site.progress(state="running", message=EVIL, step=1, steps=2)
    page = show(site)
    for place in ("#versions", "#worst", "#labels-structures", "#job-state", "#retraining"):
        expect(page.locator(place)).to_contain_text(EVIL)
    page.locator("#rounds-structure").select_option(EVIL)
    page.wait_for_function(f"() => [...document.querySelectorAll('#worst img')].every({LOADED})")
    page.wait_for_timeout(300)
    assert page.evaluate("window.stolen") is None
    assert page.locator("img[src='x']").count() == 0


def test_a_new_site_says_that_there_is_nothing_yet(show, tmp_path, keep):
    page = show(Site(tmp_path))
    expect(page.locator("#served")).to_contain_text("The base checkpoint itself")
    for place, words in (
        ("#versions", "None yet"),
        ("#rounds", "No round has been measured yet."),
        ("#labels-total", "No label has been submitted yet."),
        ("#worst", "no pictures"),
    ):
        expect(page.locator(place)).to_contain_text(words)
    keep(page, "new")


def test_the_plan_of_retraining_is_told_in_words(show, site):
    plan = {
        "plan": "20 labels; 0 3 * * *",
        "new_labels": 7,
        "labels_needed": 20,
        "next_time": "2026-11-23T03:00:00+00:00",
        "due": True,
        "waiting_for": "people who annotate",
        "note": "Nothing was started at 3:00.",
        "last": {"started": "2026-11-22T03:00:00+00:00", "ended": None, "result": "It runs."},
    }
    site.retraining = type("Retraining", (), {"status": lambda _: plan})()
    page = show(site)
    for words in (
        *("20 labels; 0 3 * * *", "7 of 20", "23 Nov 2026, 03:00", "waits for people who annotate"),
        *("22 Nov 2026, 03:00 · It runs.", "Nothing was started at 3:00."),
    ):
        expect(page.locator("#retraining")).to_contain_text(words)


def test_it_can_be_read_on_a_phone(show, site, keep):
    page = show(site, viewport=NARROW)
    expect(page.locator("#versions")).to_contain_text("v5")
    page.wait_for_function(f"() => [...document.querySelectorAll('#worst img')].every({LOADED})")
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    keep(page, "phone")


def test_many_versions_are_shown_ten_at_a_time(show, tmp_path):
    site = Site(tmp_path)
    for n in range(40):
        site.round(0.6 + 0.005 * n, 0.605 + 0.005 * n)
    page = show(site)
    expect(page.locator("#versions tbody tr")).to_have_count(11)
    page.get_by_role("button", name="Show 30 older").click()
    expect(page.locator("#versions tbody tr")).to_have_count(41)
    names = page.locator("#rounds .axis[text-anchor=middle]")
    boxes = names.evaluate_all("all => all.map((text) => text.getBoundingClientRect())")
    ends = [(box["left"], box["right"]) for box in boxes]
    assert all(right < left for (_, right), (left, _) in zip(ends, ends[1:], strict=False))
    assert names.last.text_content() == "v40"


def test_a_server_that_is_gone_is_said_and_noticed_when_it_is_back(show, site):
    page = show(site)
    expect(page.locator("#served")).to_contain_text("biosam2_nano-v5")
    page.route("**/biosam2/status", lambda route: route.abort())
    page.locator("#train").click()
    expect(page.locator("#banner")).to_have_text("The server does not answer. Is it still running?")
    expect(page.locator("#served")).to_contain_text("biosam2_nano-v5")
    page.unroute("**/biosam2/status")
    expect(page.locator("#banner")).to_be_hidden()


def test_with_access_control_people_sign_in_and_only_administrators_change_things(
    show, serve, site, monkeypatch, keep
):
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    reader = settings.MONAI_LABEL_AUTH_ROLE_USER
    roles = {"anna": [reader], "boss": [reader, settings.MONAI_LABEL_AUTH_ROLE_ADMIN]}

    def who(authorization: str = Header("")) -> User:
        name = authorization.removeprefix("Bearer token-of-")
        if name not in roles:
            raise HTTPException(401, "Not authenticated")
        return User(username=name, roles=roles[name])

    address = serve(site)
    serve.app.dependency_overrides[get_current_user] = who

    async def token(request: Request) -> dict[str, str]:
        form = await request.form()
        if form["password"] != "secret":
            raise HTTPException(500, "the realm says no")
        return {"access_token": f"token-of-{form['username']}", "token_type": "bearer"}

    serve.app.add_api_route("/auth/token", token, methods=["POST"])
    page = show(None, address)

    def sign_in(name: str, password: str) -> None:
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()

    expect(page.locator("#signin")).to_be_visible()
    expect(page.locator("#main")).to_be_hidden()
    keep(page, "sign_in")
    sign_in("anna", "wrong")
    expect(page.locator("#refused")).to_have_text("That name and password were not accepted.")
    sign_in("anna", "secret")
    expect(page.locator("#served")).to_contain_text("biosam2_nano-v5")
    expect(page.locator("#train")).to_be_hidden()
    expect(page.get_by_role("button", name="Serve version 4")).to_have_count(0)
    page.wait_for_function(f"() => [...document.querySelectorAll('#worst img')].every({LOADED})")
    page.reload()
    expect(page.locator("#served")).to_contain_text("biosam2_nano-v5")
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("#signin")).to_be_visible()
    expect(page.locator("#main")).to_be_hidden()
    sign_in("boss", "secret")
    expect(page.locator("#train")).to_be_visible()
    page.get_by_role("button", name="Serve version 4").click()
    page.locator("#ask-yes").click()
    expect(page.locator("#served")).to_contain_text("biosam2_nano-v4")
