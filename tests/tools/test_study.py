"""The study with people: the images of its page, sessions in a real browser, the table."""

import base64
import io
import json
import re
import shutil
import statistics
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, refusal
from PIL import Image

from config import Config
from dataset import PairedDataset
from engine.cli import UserError
from evaluate import translations
from images.pixels import resize, to_image
from tasks.colorization import to_lab
from tools import study
from tools.study import estimate, practice_images
from utils import build_generator, generate_any_size, load_generator, save_checkpoint

DESKTOP = {"viewport": {"width": 1400, "height": 900}}
PHONE = {
    "viewport": {"width": 390, "height": 664},
    "is_mobile": True,
    "has_touch": True,
    "device_scale_factor": 2,
}
SHORT = ["--split", "train", "--practice", 2, "--trials", 6, "--device", "cpu"]  # 6 images


def make_page(output: Path, *words) -> Path:
    assert study.main([*words, "--output", output]) == 0
    return output


def data_of(page: Path) -> dict:
    """The data embedded in a page, as its script reads them."""
    text = page.read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    return json.loads(data)


def image_of(data: dict, number: int) -> np.ndarray:
    content = data["images"][number].removeprefix("data:image/webp;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


@pytest.fixture(scope="module")
def page(run, tmp_path_factory) -> Path:
    """A page of two generators: a run, and a copy of it."""
    folder = tmp_path_factory.mktemp("study")
    copy = shutil.copytree(run, folder / "L1+cGAN")
    return make_page(folder / "study.html", run, copy, *SHORT)


# ---- The page ---------------------------------------------------------------------------------


def test_the_page_holds_real_and_generated_images_without_loss(page, run):
    data = data_of(page)
    generator = load_generator(run)
    dataset = PairedDataset(generator.config, "train", augment=False)
    expected = translations(generator, dataset)
    first, copy = data["generators"]
    assert [first["name"], copy["name"]] == ["run", "L1+cGAN"]
    for item, (name, _, output, target, *_) in zip(first["items"], expected, strict=True):
        assert item["name"] == name
        assert (image_of(data, item["fake"]) == np.asarray(to_image(output))).all()
        assert (image_of(data, item["real"]) == np.asarray(to_image(target))).all()
    # Equal images are embedded once.
    assert first["items"] == copy["items"] and len(data["images"]) == 12
    assert not first["same_input"] and first["practice_images"] == 2


def test_at_twice_the_size_images_are_translated_whole_and_shown_at_half(run, tmp_path, capsys):
    data = data_of(make_page(tmp_path / "page.html", run, *SHORT, "--size", 64))
    generator = load_generator(run)
    config = Config(**{**vars(generator.config), "crop_size": 64, "load_size": 72})
    pair = PairedDataset(config, "train", augment=False)[0]
    output = generate_any_size(generator, pair["input"])
    assert output.shape == (3, 64, 64)
    item = data["generators"][0]["items"][0]
    for kind, image in (("real", pair["target"]), ("fake", output)):
        expected = np.asarray(to_image(resize(image, (32, 32))))
        assert (image_of(data, item[kind]) == expected).all()
    odd = refusal(capsys, study.main, run, *SHORT, "--size", 60)
    assert "--size 60" in odd and "multiple of 2**depth = 16" in odd


def test_in_colorization_both_images_are_of_the_same_gray_input(tmp_path, capsys):
    random = np.random.default_rng(0)
    for number in range(20):
        pixels = random.integers(80, 176, (3, 3, 3), np.uint8)
        photo = Image.fromarray(pixels).resize((48, 48), Image.Resampling.BICUBIC)
        (tmp_path / "photos" / "test").mkdir(parents=True, exist_ok=True)
        photo.save(tmp_path / "photos" / "test" / f"{number}.png")
    fields = {**TINY, "task": "colorization", "in_channels": 1, "out_channels": 2}
    config = Config(data_root=str(tmp_path / "photos"), **fields)
    generator = build_generator(config)
    generator.output[-2].weight.data *= 0.02  # colors that RGB can show
    save_checkpoint(
        tmp_path / "run" / "checkpoints" / "latest.pt",
        config,
        generator=generator.state_dict(),
        step=0,
    )
    data = data_of(make_page(tmp_path / "page.html", tmp_path / "run", "--device", "cpu"))
    assert "20 images, pairs of the same input" in (out := capsys.readouterr().out)
    assert "50 trials: a session shows some images up to 3 times" in out
    (about,) = data["generators"]
    assert about["same_input"] and about["practice_images"] == 4
    for item in about["items"]:
        real, fake = (torch.tensor(image_of(data, item[k])) for k in ("real", "fake"))
        assert (real != fake).any()
        light = [to_lab(i.permute(2, 0, 1).float() / 127.5 - 1)[0] for i in (real, fake)]
        assert (light[0] - light[1]).abs().mean() < 0.01


def test_some_images_of_a_large_split_are_drawn_by_seed(run, tmp_path):
    words = [run, "--split", "train", "--practice", 2, "--trials", 2, "--device", "cpu"]
    drawn = []
    for seed in (0, 0, 1, 2):
        page = make_page(tmp_path / "page.html", *words, "--images", 4, "--seed", seed)
        drawn.append([item["name"] for item in data_of(page)["generators"][0]["items"]])
    assert drawn[0] == drawn[1] and len({tuple(names) for names in drawn}) > 1
    assert all(len(set(names)) == 4 for names in drawn)


def test_names_cannot_end_the_script(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "<!--<script>")
    data = data_of(make_page(tmp_path / "page.html", copy, *SHORT))
    assert data["generators"][0]["name"] == "<!--<script>"


def test_runs_of_equal_names_are_told_apart(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    page = make_page(tmp_path / "page.html", run, copy / "checkpoints" / "latest.pt", *SHORT)
    names = [about["name"] for about in data_of(page)["generators"]]
    assert names == [str(run), str(copy / "checkpoints" / "latest.pt")]
    assert f"page.html#2  {names[1]}: 6 images" in capsys.readouterr().out
    assert "is given twice" in refusal(capsys, study.main, run, run)


@pytest.mark.parametrize(
    ("count", "practice", "trials", "same_input", "expected"),
    [
        (100, 10, 40, False, 20),
        (18, 10, 40, False, 4),
        (20, 10, 40, True, 4),
        (1000, 0, 40, False, 0),
        (4, 1, 1, False, 2),
        (2, 1, 1, True, 1),
    ],
)
def test_practice_has_images_of_its_own(count, practice, trials, same_input, expected):
    assert practice_images(count, practice, trials, same_input) == expected


def test_too_few_images_are_refused_before_anything_is_written(run, tmp_path, capsys):
    line = refusal(capsys, study.main, run, "--output", tmp_path / "page.html", "--device", "cpu")
    assert "split test: 3 images are too few for 10 + 40 trials, which need 18" in line
    assert not (tmp_path / "page.html").exists()
    with pytest.raises(UserError, match=r"3 images are too few for 1 \+ 1 trials, which need 4"):
        practice_images(3, 1, 1, same_input=False)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--seed", "1"], "name either runs, to make a page, or results"),
        (["runs/a", "--read", "b.json"], "name either runs, to make a page, or results"),
        (["runs/a", "--trials", "0"], "--trials is 0; it must be 1 or more"),
        (["runs/a", "--practice", "-1"], "--practice is -1; it must be 0 or more"),
        (["runs/missing"], "runs/missing does not exist"),
    ],
)
def test_mistakes_end_in_one_line(words, line, capsys):
    assert line in refusal(capsys, study.main, *words)


# ---- The results ------------------------------------------------------------------------------


def session_of(name: str, fooled: list[bool], generator: str = "L1", **fields) -> dict:
    """A session as the page saves it, of one practice trial and `fooled`: whether the generated
    image was taken for the real one."""
    trials = [
        {
            "practice": number == 0,
            "real": "1",
            "fake": "2",
            "fake_side": 1,
            "state": "answered",
            "shown_ms": 1000.0,
            "answer": 2 if mistaken else 1,
            "response_ms": 700,
        }
        for number, mistaken in enumerate([True, *fooled])
    ]
    about = {"format": 1, "study": "abc", "session": name, "generator": generator}
    return {**about, "trials": trials, **fields}


def write_sessions(folder: Path, *sessions: dict) -> list[Path]:
    files = [folder / f"study_{number}.json" for number in range(len(sessions))]
    for file, session in zip(files, sessions, strict=True):
        file.write_text(json.dumps(session), encoding="utf-8")
    return files


def table_of(capsys, *words) -> dict[str, list[str]]:
    """The cells of each row that --read prints."""
    capsys.readouterr()
    assert study.main(["--read", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {words[0]: words[1:] for words in (line.split() for line in lines)}


def test_the_table_has_the_mean_over_people_and_its_standard_error(tmp_path, capsys):
    fooled = [[True] * n + [False] * (10 - n) for n in (1, 2, 6)]
    sessions = [session_of(str(n), values, "L1+cGAN") for n, values in enumerate(fooled)]
    sessions += [session_of(f"other {n}", [False] * 4) for n in range(2)]
    write_sessions(tmp_path, *sessions)
    rows = table_of(capsys, tmp_path / "study_*.json")
    shares = [10, 20, 60]
    error = statistics.stdev(shares) / 3**0.5
    assert rows["L1+cGAN"][:5] == ["3", "30", "30.0", "±", f"{error:.1f}"]
    low, high = (float(rows["L1+cGAN"][i]) for i in (5, 7))
    assert low == 10 and high == 60  # one in 27 samples has the same person three times
    assert rows["L1"] == ["2", "8", "0.0", "±", "0.0", "0.0", "to", "0.0"]


def test_the_interval_agrees_with_the_normal_one_for_many_people():
    values = np.random.default_rng(0).binomial(40, 0.19, 50) / 0.4
    mean, error, low, high = estimate(values, seed=0)
    assert mean == values.mean() and error == pytest.approx(values.std(ddof=1) / 50**0.5)
    assert [low, high] == pytest.approx([mean - 1.96 * error, mean + 1.96 * error], abs=0.2)
    assert estimate(values, seed=0) == (mean, error, low, high)


def test_one_person_alone_is_evaluated_over_trials_and_said_to_be(tmp_path, capsys):
    write_sessions(tmp_path, session_of("a", [True] * 10 + [False] * 30))
    (row,) = [line for line in printed(capsys, tmp_path / "study_0.json") if line[:3] == "L1 "]
    error = 100 * (0.25 * 0.75 / 39) ** 0.5
    assert row.split()[:6] == ["L1", "1", "40", "25.0", "±", f"{error:.1f}"]
    assert row.endswith("(over trials: one person)")


def printed(capsys, *words) -> list[str]:
    capsys.readouterr()
    assert study.main(["--read", *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_interrupted_trials_are_left_out_and_long_displays_are_reported(tmp_path, capsys):
    session = session_of("a", [False] * 4)
    session["trials"][1] |= {"state": "interrupted", "answer": None, "shown_ms": None}
    session["trials"][2]["shown_ms"] = 1180.0
    *_, table, _, paper, times, lost = printed(capsys, *write_sessions(tmp_path, session))
    assert table.split()[:3] == ["L1", "1", "3"]
    assert paper == "the paper asked about 50 people for each generator"
    expected = "images shown for 1000 ms (median; 1000 to 1180); 1 of 3 trials are off by over"
    assert times.startswith(expected)
    assert lost == "1 interrupted trials are not counted"


def test_a_session_is_counted_once(tmp_path, capsys):
    a, again, b = write_sessions(
        tmp_path, session_of("a", [True]), session_of("a", [True]), session_of("b", [False])
    )
    lines = printed(capsys, a, again, a, b)
    assert lines[0] == f"{again} repeats {a}; counted once"
    assert lines[2].split()[:4] == ["L1", "2", "2", "50.0"]
    again.write_text(json.dumps(session_of("a", [False])), encoding="utf-8")
    assert "of the same session but differ" in refusal(capsys, study.main, "--read", a, again)


def damaged(**changes) -> dict:
    """A session whose last trial was changed."""
    session = session_of("a", [True, False])
    session["trials"][-1] |= changes
    return session


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "cannot be read as JSON"),
        ([], "holds no JSON object"),
        ({"format": 1}, "is no result of a study page"),
        (session_of("a", [True], format=2), "has format 2, newer than 1"),
        (session_of("", [True]), "is no result of a study page"),
        (session_of("a", [True], generator="\x1b[2J"), "is no result of a study page"),
        (session_of("a", [True], trials=[]), "is damaged"),
        (session_of("a", [True], trials=[1]), "is damaged"),
        (damaged(answer=3), "is damaged"),
        (damaged(answer=True), "is damaged"),
        (damaged(state="waiting"), "is damaged"),
        (damaged(state="shown"), "is damaged"),
        (damaged(shown_ms=float("nan")), "is damaged"),
        (damaged(response_ms="700"), "is damaged"),
        (session_of("a", []), "no trial without feedback was answered"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, capsys, content, reason):
    file = tmp_path / "study_0.json"
    text = content if isinstance(content, str) else json.dumps(content)
    file.write_text(text, encoding="utf-8")
    line = refusal(capsys, study.main, "--read", file)
    assert reason in line and (str(file) in line or "no trial" in reason)


def test_results_of_different_pages_are_not_mixed(tmp_path, capsys):
    files = write_sessions(
        tmp_path, session_of("a", [True]), session_of("b", [True], study="another")
    )
    assert "are of different pages" in refusal(capsys, study.main, "--read", *files)
    assert "missing.json cannot be read" in refusal(capsys, study.main, "--read", "missing.json")


# ---- In a browser -----------------------------------------------------------------------------

# Records when the images and the buttons that replace them were painted.
RECORD = """
  window.painted = { IMG: [], BUTTON: [] };
  new PerformanceObserver(list => {
    for (const entry of list.getEntries()) painted[entry.identifier].push(entry.renderTime);
  }).observe({ type: "element", buffered: true });
  new MutationObserver(records => {
    for (const record of records) for (const node of record.addedNodes)
      if (node.tagName in painted) node.setAttribute("elementtiming", node.tagName);
  }).observe(document, { subtree: true, childList: true });
"""


@pytest.fixture
def opened(browser):
    """Opens a page without a network. Afterwards, asserts that it had no error and asked for
    nothing."""
    contexts, wrong = [], []

    def start(path: Path, options=DESKTOP, fragment: str = "", script: str = RECORD, **more):
        contexts.append(browser.new_context(**options, offline=True, **more))
        page = contexts[-1].new_page()
        page.add_init_script(script)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda r: r.url.startswith(("file:", "data:", "blob:")) or wrong.append(r.url),
        )
        page.goto(path.resolve().as_uri() + fragment)
        return page

    yield start
    for context in contexts:
        context.close()
    assert not wrong


def until(page, condition: str, seconds: float = 30) -> None:
    """Waits. Not by page.wait_for_function, which the page's security policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(f"Boolean({condition})"):
        assert time.monotonic() < end, condition
        time.sleep(0.01)


IMAGES = "document.querySelectorAll('.slot img').length === 2"
BUTTONS = "document.querySelectorAll('.slot button').length === 2"
NO_IMAGES = "document.querySelectorAll('img').length === 0"


def visible(section: str) -> str:
    return f"!document.getElementById('{section}').hidden"


def go_through(page, answers, press) -> None:
    """Goes through trials from the one that comes next. `answers` are whether the answer is right,
    `press(side)` gives it."""
    for right in answers:
        until(page, IMAGES)
        until(page, BUTTONS)
        assert page.evaluate(NO_IMAGES)
        trial = page.evaluate("session.trials.find(trial => trial.state === 'shown')")
        assert page.inner_text("#message") == "Which one was fake?"
        press(trial["fake_side"] if right else 3 - trial["fake_side"])
        if trial["practice"]:
            until(page, visible("next"))
            words = "✓ Correct." if right else "✗ Wrong."
            assert page.inner_text("#message").startswith(words)
            page.keyboard.press("Enter")
            if page.evaluate("session.trials.filter(t => t.practice).every(t => t.answer)"):
                until(page, visible("pause"))
                assert "6 trials follow, without feedback" in page.inner_text("#rest")
                page.keyboard.press("Enter")
        else:
            assert "Correct" not in page.inner_text("main")
            assert "Wrong" not in page.inner_text("main")


def saved(page, last) -> tuple[str, str]:
    """The name and the text of the file that is saved after `last()`."""
    with page.expect_download() as download:
        last()
    return download.value.suggested_filename, download.value.path().read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_whole_session_by_keyboard(page, opened, tmp_path, capsys):
    window = opened(page)
    window.keyboard.press("Tab")
    assert window.evaluate("document.activeElement.id") == "start"
    window.keyboard.press("Enter")
    keys = iter("12" * 4)
    arrows = {"1": ["ArrowLeft", "1"], "2": ["ArrowRight", "2"]}

    def press(side):
        window.keyboard.press(arrows[str(side)][int(next(keys)) - 1])

    go_through(window, [True, False, True, True, False, True, True], press)
    # The page names neither generator, nor which of the images is which, before the end.
    assert not re.search(r"L1|cGAN|\brun\b", window.inner_text("body"))
    name, text = saved(window, lambda: go_through(window, [False], press))
    session = json.loads(text)
    assert name == f"study_{session['session']}.json" == window.inner_text("#file")
    assert json.loads(window.input_value("#json")) == session
    (tmp_path / name).write_text(text, encoding="utf-8")

    data = data_of(page)
    assert session["study"] == data["id"] and session["generator"] in ("run", "L1+cGAN")
    trials = session["trials"]
    assert [trial["practice"] for trial in trials] == [True] * 2 + [False] * 6
    right = [trial["answer"] == trial["fake_side"] for trial in trials]
    assert right == [True, False, True, True, False, True, True, False]
    assert all(0 <= trial["response_ms"] < 30_000 and trial["scale"] == 1 for trial in trials)
    rows = table_of(capsys, tmp_path / name)
    assert rows[session["generator"]][:3] == ["1", "6", "33.3"]


@pytest.mark.slow
def test_the_images_are_on_the_screen_for_one_second(page, opened):
    window = opened(page)

    def press(side):
        time.sleep(0.2)  # until the buttons have been painted
        window.keyboard.press(str(side))

    window.click("#start")
    go_through(window, [True] * 8, press)
    until(window, visible("end"))
    trials = window.evaluate("session.trials")
    measured = [trial["shown_ms"] for trial in trials]
    # When they were painted, by the browser's own record. Each trial paints two of each.
    images, buttons = (sorted(set(window.evaluate(f"painted.{k}"))) for k in ("IMG", "BUTTON"))
    painted = [
        next(end for end in buttons if end > start) - start
        for start, following in pairwise([*images, float("inf")])
        if following - start > 500
    ]
    print(f"\nmeasured {measured}\npainted  {painted}")
    assert len(measured) == len(painted) == 8
    for times in (measured, painted):
        assert 950 < statistics.median(times) < 1050
        assert min(times) > 900 and max(times) < 1500  # on a busy machine


@pytest.mark.slow
def test_each_side_shows_its_image_as_it_is(page, opened):
    window = opened(page)
    data = data_of(page)
    window.click("#start")
    until(window, IMAGES)
    screenshot = Image.open(io.BytesIO(window.screenshot())).convert("RGB")
    boxes = [window.evaluate(f"slots[{i}].getBoundingClientRect().toJSON()") for i in (0, 1)]
    session = window.evaluate("session")
    trial = session["trials"][0]
    (about,) = [g for g in data["generators"] if g["name"] == session["generator"]]
    numbers = {item["name"]: item for item in about["items"]}
    kinds = ["real", "fake"] if trial["fake_side"] == 2 else ["fake", "real"]
    for kind, box in zip(kinds, boxes, strict=True):
        left = round(box["x"] + (box["width"] - 32) / 2)
        top = round(box["y"] + (box["height"] - 32) / 2)
        seen = np.asarray(screenshot.crop((left, top, left + 32, top + 32)))
        assert (seen == image_of(data, numbers[trial[kind]][kind])).all()


@pytest.mark.slow
@pytest.mark.parametrize("turned", [False, True], ids=["upright", "turned"])
def test_on_a_phone_all_is_in_view_and_large_enough_to_tap(run, opened, tmp_path, turned):
    page = make_page(tmp_path / "large.html", run, *SHORT, "--size", 512)  # images of 256 px
    size = {"width": 664, "height": 390} if turned else {"width": 390, "height": 664}
    window = opened(page, {**PHONE, "viewport": size})
    assert window.locator("#start").bounding_box()["height"] >= 44
    window.tap("#start")
    sides = window.locator(".slot button")

    def tap(side):
        words = ["← left", "right →"] if turned else ["↑ upper", "↓ lower"]
        assert sides.all_text_contents() == words
        boxes = [button.bounding_box() for button in sides.all()]
        assert min(min(box["width"], box["height"]) for box in boxes) > 180
        sides.nth(side - 1).tap()

    go_through(window, [True, True, False], tap)
    for side in ("Width", "Height"):
        root = "document.documentElement"
        assert window.evaluate(f"{root}.scroll{side} <= {root}.client{side}")
    trials = window.evaluate("session.trials")
    assert {trial["scale"] for trial in trials[:3]} == {trials[0]["scale"]}
    assert 0.7 < trials[0]["scale"] < 1


@pytest.mark.slow
def test_a_reload_loses_nothing_and_shows_no_image_twice(page, opened):
    window = opened(page, fragment="#L1+cGAN")
    window.click("#start")
    go_through(window, [True, False, True], lambda side: window.keyboard.press(str(side)))
    until(window, IMAGES)
    before = window.evaluate("session")
    window.reload()
    assert "4 of 8 trials have been done" in window.inner_text("#unfinished")
    window.click("#start")
    go_through(window, [True] * 3, lambda side: window.keyboard.press(str(side)))
    _, text = saved(
        window, lambda: go_through(window, [True], lambda s: window.keyboard.press(str(s)))
    )
    session = json.loads(text)
    assert session["generator"] == "L1+cGAN" and session["session"] == before["session"]
    states = [trial["state"] for trial in session["trials"]]
    assert states == ["answered"] * 3 + ["interrupted"] + ["answered"] * 4
    assert session["trials"][:3] == before["trials"][:3]

    # Afterwards, it shows the end, and saves the same again.
    window.reload()
    assert saved(window, lambda: window.click("#save"))[1] == text
    window.once("dialog", lambda dialog: dialog.accept())
    window.click("#another")
    until(window, visible("trial"))
    assert window.evaluate("session.session") != session["session"]


@pytest.mark.slow
def test_a_trial_during_which_the_page_was_hidden_does_not_count(page, opened):
    window = opened(page)
    window.click("#start")
    until(window, IMAGES)
    window.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    assert window.evaluate(NO_IMAGES)
    until(window, visible("next"))
    assert "does not count" in window.inner_text("#message")
    assert window.evaluate("session.trials[0].state") == "interrupted"
    window.keyboard.press("Enter")
    until(window, "document.querySelector('#count').textContent === 'Practice 2 of 2'")
    until(window, IMAGES)


@pytest.mark.slow
def test_keys_count_only_once_the_images_are_gone(page, opened):
    window = opened(page)
    window.click("#start")
    until(window, IMAGES)
    for key in ("1", "ArrowRight", "Enter"):
        window.keyboard.press(key)
    until(window, BUTTONS)
    for key in ("Enter", "3", "Control+1", "a"):
        window.keyboard.press(key)
    assert window.evaluate(BUTTONS) and window.evaluate("session.trials[0].answer") is None
    window.keyboard.press("Tab")
    window.keyboard.press("Enter")  # the button that has the focus
    until(window, "session.trials[0].answer === 1")


@pytest.mark.slow
def test_the_address_chooses_the_generator(page, opened):
    for fragment, name in (("#1", "run"), ("#2", "L1+cGAN"), ("#run", "run")):
        window = opened(page, fragment=fragment)
        window.click("#start")
        until(window, visible("trial"))
        assert window.evaluate("session.generator") == name
    window = opened(page, fragment="#3")
    assert "no study called “3”" in window.inner_text("#problem")
    assert not window.locator("#start").is_visible()

    # Otherwise it is drawn.
    window = opened(page)
    drawn = {window.evaluate("(newSession(), session.generator)") for _ in range(30)}
    assert drawn == {"run", "L1+cGAN"}


@pytest.mark.slow
@pytest.mark.parametrize("same_input", [False, True])
@pytest.mark.parametrize("count", [18, 50, 75, 100])
def test_the_order_of_a_session_follows_from_its_seed(page, opened, count, same_input):
    window = opened(page)
    items = [{"name": str(number)} for number in range(count)]
    about = {
        "items": items,
        "same_input": same_input,
        "practice_images": practice_images(count, 10, 40, same_input),
    }
    window.evaluate("[study.practice, study.trials] = [10, 40]")
    plan = "([about, seed]) => planTrials(about, randomNumbers(seed))"
    sides = []
    for seed in range(5):
        trials = window.evaluate(plan, [about, seed])
        assert trials == window.evaluate(plan, [about, seed])
        assert trials != window.evaluate(plan, [about, seed + 100])
        assert [trial["practice"] for trial in trials] == [True] * 10 + [False] * 40
        assert all((trial["real"] == trial["fake"]) == same_input for trial in trials)
        sides += [trial["fake_side"] for trial in trials]
        used = [
            {t[kind] for t in trials if t["practice"] == practice}
            for practice in (True, False)
            for kind in ("real", "fake")
        ]
        assert not (used[0] | used[1]) & (used[2] | used[3])  # feedback tells nothing
        for kind in ("real", "fake"):
            times = [sum(t[kind] == item["name"] for t in trials) for item in items]
            assert max(times) == (1 if count >= 50 else 3)
        if count == 100 and not same_input:  # then no input is seen twice at all
            assert not used[0] & used[1] and not used[2] & used[3]
    assert 0.35 < sides.count(1) / len(sides) < 0.65


@pytest.mark.slow
def test_without_storage_the_page_warns_and_works(page, opened):
    window = opened(page)
    assert not window.locator("#unkept").is_visible()
    forbidden = "Storage.prototype.setItem = () => { throw new Error('forbidden'); };"
    window = opened(page, script=forbidden)
    assert "do not close or reload" in window.inner_text("#unkept")
    window.click("#start")
    until(window, IMAGES)


@pytest.mark.slow
def test_an_image_that_cannot_be_shown_is_reported(page, opened, tmp_path):
    text = page.read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace("webp;base64,", "webp;base64,AAAA"), encoding="utf-8")
    window = opened(broken)
    window.click("#start")
    until(window, visible("problem"))
    assert "cannot be shown in this browser" in window.inner_text("#problem")


LUMINANCE = """
  text => {
    const [red, green, blue] = text.match(/[\\d.]+/g).map(value => {
      value /= 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  }
"""


def contrast(page, text: str, ground: str) -> float:
    """The contrast of WCAG between two CSS colors of the page."""
    colors = page.evaluate(
        """names => names.map(name => {
          const probe = document.body.appendChild(document.createElement("i"));
          probe.style.color = `var(${name})`;
          const color = getComputedStyle(probe).color;
          probe.remove();
          return color;
        })""",
        [text, ground],
    )
    dark, light = sorted(page.evaluate(LUMINANCE, color) for color in colors)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_both_schemes_and_used_without_a_mouse(page, opened, scheme):
    window = opened(page, color_scheme=scheme)
    for text in ("--ink", "--quiet", "--accent", "--right", "--wrong"):
        assert contrast(window, text, "--ground") >= 4.5, text
    for text in ("--ink", "--accent"):
        assert contrast(window, text, "--card") >= 4.5, text
    assert contrast(window, "--ground", "--accent") >= 4.5
    assert contrast(window, "--on-around", "--around") >= 4.5
    dark = window.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (window.evaluate(LUMINANCE, dark) < 0.2) == (scheme == "dark")

    window.keyboard.press("Tab")
    outline = "getComputedStyle(document.activeElement).outlineWidth"
    assert window.evaluate(outline) == "3px"
    window.keyboard.press("Enter")
    until(window, BUTTONS)
    assert window.get_by_role("status").inner_text() == "Which one was fake?"
    assert window.get_by_role("progressbar", name="trials done").is_visible()
    assert window.get_by_role("button", name="The left one was fake").is_visible()
    window.keyboard.press("ArrowLeft")
    until(window, visible("next"))
    assert window.evaluate("document.activeElement.id") == "next"
    assert "one was fake." in window.get_by_role("status").inner_text()
