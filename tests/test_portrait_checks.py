"""POST /avatars/check and metadata.portrait_checks, with a fake detector and with the installed one."""

from __future__ import annotations

import dataclasses
import functools
import io
from math import cos, pi, radians, sin
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from opentalking_core.bundles.mouth import MouthLandmarks
from opentalking_core.portraits.checks import MIN_SHARPNESS, FaceQuality, measure_face, mouth_opening
from opentalking_core.portraits.drawn import draw_portrait
from opentalking_core.testing.running import running_service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from opentalking_core.testing.fixtures import FakeMouth, PutBundle

    from .conftest import PostPortrait

NAMES = ["face_found", "one_face", "face_width", "face_inside"]
NAMES += ["yaw", "pitch", "roll", "mouth_closed", "sharpness", "exposure"]


def encoded(image: Image.Image, file_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, compress_level=1)
    return file.getvalue()


@functools.cache
def drawn(width: int = 600, height: int = 600, **how: Any) -> Image.Image:
    return draw_portrait(width, height, **how).image


@functools.cache
def portrait() -> bytes:
    return encoded(drawn())


def check(service: httpx.Client, image: bytes) -> dict[str, Any]:
    """Return the answer, with the checks by name."""
    answer = service.post("/avatars/check", files={"image": ("portrait", image)})
    assert answer.status_code == 200, answer.text
    report: dict[str, Any] = answer.json()
    assert list(report) == ["passed", "checks", "mouth"]
    assert (report["mouth"] is not None) == report["checks"][0]["passed"]
    for item in report["checks"]:
        assert list(item) == ["name", "passed", "value", "limit", "unit", "message"]
        assert (item["value"] is None) == (item["passed"] is None)
    return {"passed": report["passed"], "checks": {item["name"]: item for item in report["checks"]}}


def failed(report: dict[str, Any]) -> set[str]:
    return {name for name, item in report["checks"].items() if item["passed"] is False}


@pytest.fixture
def mouth(fake_mouth: FakeMouth) -> FakeMouth:
    """Return a detector that reports every field of a perfect portrait."""
    closed = ((0.45, 0.6), (0.5, 0.601), (0.55, 0.6), (0.5, 0.599))
    lips = ((0.4, 0.6), (0.5, 0.55), (0.6, 0.6), (0.5, 0.65))
    fake_mouth.landmarks = MouthLandmarks(lips, closed, (0.285, 0.27, 0.715, 0.75), faces=1, pose=(1.0, -4.0, 0.5))
    return fake_mouth


def test_check_good_portrait_passes_every_check(service: httpx.Client, mouth: FakeMouth) -> None:
    report = check(service, portrait())
    assert list(report["checks"]) == NAMES
    assert report["passed"] is True
    assert all(item["passed"] is True for item in report["checks"].values())
    assert report["checks"]["face_width"] == {
        "name": "face_width", "passed": True, "value": 258, "limit": {"min": 84}, "unit": "px",
        "message": "The face is 258 pixels wide.",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "fails", "value", "says"),
    [
        ({"faces": 2}, "one_face", 2, "2 faces"),
        ({"face_box": (0.4, 0.3, 0.53, 0.5)}, "face_width", 78, "with more pixels or come closer"),
        ({"face_box": (0.3, -0.1, 0.7, 0.5)}, "face_inside", -60, "cut off"),
        ({"face_box": (0.5, 0.3, 1.0, 0.7)}, "face_inside", 0, "cut off"),
        ({"pose": (-31.0, 0.0, 0.0)}, "yaw", -31.0, "turned 31 degrees"),
        ({"pose": (15.1, 0.0, 0.0)}, "yaw", 15.1, "turned 15 degrees"),
        ({"pose": (0.0, -21.0, 0.0)}, "pitch", -21.0, "lowered by 21 degrees"),
        ({"pose": (0.0, 21.0, 0.0)}, "pitch", 21.0, "raised by 21 degrees"),
        ({"pose": (0.0, 0.0, -16.0)}, "roll", -16.0, "tilted 16 degrees"),
        (
            {"inner_mouth": ((0.45, 0.6), (0.5, 0.56), (0.55, 0.6), (0.5, 0.64))},
            "mouth_closed", pytest.approx(0.509, abs=0.001), "open",
        ),
    ],
)  # fmt: skip
def test_check_single_fault_fails_one_check(
    service: httpx.Client, mouth: FakeMouth, changes: dict[str, Any], fails: str, value: object, says: str
) -> None:
    assert mouth.landmarks is not None
    mouth.landmarks = dataclasses.replace(mouth.landmarks, **changes)
    report = check(service, portrait())
    assert failed(report) == {fails}
    assert report["passed"] is False
    assert report["checks"][fails]["value"] == value
    assert says in report["checks"][fails]["message"]


@pytest.mark.parametrize(
    ("image", "fails", "says"),
    [
        (lambda: drawn().filter(ImageFilter.GaussianBlur(4)), {"sharpness"}, "blurred"),
        (lambda: drawn().point(lambda value: value // 6), {"exposure"}, "too dark"),
        (lambda: drawn().point(lambda value: min(255, value * 3)), {"exposure"}, "too bright"),
    ],
    ids=["blurred", "dark", "bright"],
)
def test_check_measures_pixels(
    service: httpx.Client, mouth: FakeMouth, image: Callable[[], Image.Image], fails: set[str], says: str
) -> None:
    report = check(service, encoded(image()))
    assert failed(report) == fails
    assert any(says in report["checks"][name]["message"] for name in fails)


@pytest.mark.parametrize("seed", range(6))
def test_check_any_skin_tone_passes(service: httpx.Client, mouth: FakeMouth, seed: int) -> None:
    assert check(service, encoded(drawn(seed=seed)))["passed"] is True


LIGHT = (1.0, 0.5, 0.3, 0.18, 0.12)


def quality(image: Image.Image) -> FaceQuality:
    """Measure a drawn face of 40 % of the picture's width."""
    box = (0.3, 0.45 - 0.27 * image.width / image.height, 0.7, 0.45 + 0.27 * image.width / image.height)
    lips = [(0.45, 0.6), (0.5, 0.58), (0.55, 0.6), (0.5, 0.62)]
    measured = measure_face(np.asarray(image), MouthLandmarks(lips, lips, box))
    assert measured is not None
    return measured


def portrait_in_light(seed: int, light: float, blur: float = 0.0, noise: float = 0.0) -> Image.Image:
    """Return a drawn portrait whose skin reflects `light` of its light, blurred by a radius in pixels, with noise."""
    pixels = np.asarray(drawn(790, 1166, face_width=0.4, seed=seed).filter(ImageFilter.GaussianBlur(blur))) * light
    pixels = pixels + np.random.default_rng(seed).normal(0, noise, pixels.shape)
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("light", LIGHT)
@pytest.mark.parametrize("seed", range(6))
def test_sharpness_is_independent_of_skin_tone_and_light(seed: int, light: float) -> None:
    sharp, blurred = (quality(portrait_in_light(seed, light, blur)).sharpness for blur in (0, 3.16))
    assert sharp > MIN_SHARPNESS + 0.5
    assert blurred < MIN_SHARPNESS


@pytest.mark.parametrize("noise", [3, 6, 10])
@pytest.mark.parametrize("seed", range(6))
def test_sharpness_finds_blur_under_noise(seed: int, noise: float) -> None:
    sharp, blurred = (quality(portrait_in_light(seed, 1, blur, noise)).sharpness for blur in (0, 4))
    assert blurred < MIN_SHARPNESS < sharp


def test_face_width_of_picture_at_its_largest_size_does_not_ask_for_pixels(store_url: str, mouth: FakeMouth) -> None:
    assert mouth.landmarks is not None
    mouth.landmarks = dataclasses.replace(mouth.landmarks, face_box=(0.4, 0.3, 0.45, 0.4))
    settings: Any = {"custom_avatar_max_width": 300, "custom_avatar_max_height": 300}
    with running_service(store_url, plugins={"mouth": mouth}, **settings) as service:
        message = check(service, portrait())["checks"]["face_width"]["message"]
    assert message == "The face is 15 pixels wide, less than 84: crop the picture or come closer."


def test_sharpness_ignores_the_background(service: httpx.Client, mouth: FakeMouth) -> None:
    picture = Image.effect_noise((600, 600), 80).convert("RGB")
    face = drawn().filter(ImageFilter.GaussianBlur(4)).crop((165, 155, 435, 455))
    picture.paste(face, (165, 155))
    assert failed(check(service, encoded(picture))) == {"sharpness"}


def test_sharpness_is_independent_of_resolution(service: httpx.Client, mouth: FakeMouth) -> None:
    values = [check(service, encoded(drawn(size, size)))["checks"]["sharpness"]["value"] for size in (500, 1000)]
    assert values[0] == pytest.approx(values[1], rel=0.3)


def test_check_with_minimal_detector_fails_nothing(service: httpx.Client, mouth: FakeMouth) -> None:
    """The detector reports the lips alone, and repeats them as inner mouth."""
    assert mouth.landmarks is not None
    lips = ((0.42, 0.61), (0.5, 0.58), (0.58, 0.61), (0.5, 0.64))
    mouth.landmarks = MouthLandmarks(lips, lips)
    report = check(service, portrait())
    assert report["passed"] is True
    measured = [name for name, item in report["checks"].items() if item["passed"] is not None]
    assert measured == ["face_found", "sharpness", "exposure"]
    assert report["checks"]["yaw"]["message"] == "Not measured."


def test_check_without_face_measures_nothing_else(service: httpx.Client, mouth: FakeMouth) -> None:
    mouth.landmarks = None
    report = check(service, portrait())
    assert report["passed"] is False
    assert [name for name, item in report["checks"].items() if item["passed"] is not None] == ["face_found"]
    assert "No face was found" in report["checks"]["face_found"]["message"]


def test_mouth_outside_the_picture_is_unavailable(
    service: httpx.Client, mouth: FakeMouth, put_bundle: PutBundle, post_portrait: PostPortrait
) -> None:
    """The picture ends above the mouth: the face is found, but there is nothing to animate."""
    assert mouth.landmarks is not None
    low = [(x, y + 0.5) for x, y in mouth.landmarks.outer_lip]
    mouth.landmarks = dataclasses.replace(mouth.landmarks, outer_lip=low, face_box=(0.3, 0.5, 0.7, 1.2))
    answer = service.post("/avatars/check", files={"image": ("portrait", portrait())}).json()
    assert answer["mouth"] is None
    assert "face_inside" in {item["name"] for item in answer["checks"] if item["passed"] is False}
    put_bundle("other", {"model_type": "wav2lip"})
    avatar_id = post_portrait(portrait(), base="other").json()["id"]
    metadata = service.get(f"/avatars/{avatar_id}").json()["metadata"]
    assert metadata["mouth_polygon_source"] == "unavailable"
    assert not {"animation", "face_box"} & metadata.keys()


def test_check_without_detector_does_not_blame_the_photo(store_url: str) -> None:
    with running_service(store_url) as service:
        message = check(service, portrait())["checks"]["face_found"]["message"]
    assert message.startswith("No mouth detector works")


def test_face_width_is_measured_in_the_fitted_picture(store_url: str, mouth: FakeMouth) -> None:
    settings: Any = {"custom_avatar_max_width": 300, "custom_avatar_max_height": 300}
    with running_service(store_url, plugins={"mouth": mouth}, **settings) as service:
        assert check(service, portrait())["checks"]["face_width"]["value"] == 129


@pytest.mark.parametrize("degrees", [0, 20, 45, 90])
def test_mouth_opening_is_independent_of_tilt(degrees: int) -> None:
    angle = radians(degrees)
    ellipse = [(100 * cos(2 * pi * k / 40), 25 * sin(2 * pi * k / 40)) for k in range(40)]
    turned = [(300 + x * cos(angle) - y * sin(angle), 300 + x * sin(angle) + y * cos(angle)) for x, y in ellipse]
    inner = [(x / 800, y / 600) for x, y in turned]
    assert mouth_opening(MouthLandmarks([(0, 0), (1, 0), (1, 1)], inner), (800, 600)) == pytest.approx(0.25, rel=0.01)


def test_check_ignores_other_form_fields(service: httpx.Client, mouth: FakeMouth) -> None:
    form: Any = {"name": (None, ""), "base_avatar_id": (None, "nobody"), "image": ("portrait.png", portrait())}
    assert service.post("/avatars/check", files=form).json()["passed"] is True


def test_check_stores_nothing(service: httpx.Client, mouth: FakeMouth) -> None:
    check(service, portrait())
    assert service.get("/avatars").json() == []


@pytest.mark.parametrize(
    ("files", "status", "says"),
    [
        ({"name": (None, "Alice")}, 400, "the field image is missing"),
        ({"image": ("portrait.png", b"")}, 400, "empty"),
        ({"image": ("portrait.png", b"no picture at all")}, 400, "not a picture"),
        ({"image": ("portrait.png", b"x" * (10 * 1024 * 1024 + 1))}, 413, "10 MB"),
        ({"image": ("portrait.png", b"any"), "video": ("a.mp4", b"x")}, 400, "video"),
    ],
)
def test_check_rejects_what_an_upload_rejects(service: httpx.Client, files: Any, status: int, says: str) -> None:
    answer = service.post("/avatars/check", files=files)
    assert (answer.status_code, says in answer.json()["detail"]) == (status, True)


def test_avatar_with_id_check_is_served(service: httpx.Client, put_bundle: PutBundle) -> None:
    put_bundle("check", {"metadata": {"custom_avatar": True}}, {"preview.png": portrait()})
    assert service.get("/avatars/check").json()["id"] == "check"
    assert service.head("/avatars/check").status_code == 200
    assert service.get("/avatars/check/preview").content == portrait()
    assert service.delete("/avatars/check").json() == {"deleted": True}
    assert service.get("/avatars/check").status_code == 404


def test_create_stores_its_own_checks_and_not_the_bases(
    service: httpx.Client, mouth: FakeMouth, put_bundle: PutBundle, post_portrait: PostPortrait
) -> None:
    """A portrait that fails its checks is still accepted."""
    assert mouth.landmarks is not None
    mouth.landmarks = dataclasses.replace(mouth.landmarks, faces=3, pose=None)
    put_bundle("other", {"model_type": "wav2lip", "metadata": {"portrait_checks": {"passed": True, "old": 1}}})
    answer = post_portrait(portrait(), base="other")
    assert answer.status_code == 200
    stored = service.get(f"/avatars/{answer.json()['id']}").json()["metadata"]["portrait_checks"]
    report = check(service, portrait())
    assert stored == {
        "passed": False,
        "checks": {name: {"passed": item["passed"], "value": item["value"]} for name, item in report["checks"].items()},
    }
    assert stored["checks"]["one_face"] == {"passed": False, "value": 3}
    assert stored["checks"]["yaw"] == {"passed": None, "value": None}


@pytest.fixture(scope="module")
def real_service(real_detectors: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Serve with the installed detectors and a worker process."""
    store = tmp_path_factory.mktemp("avatars").as_uri()
    with running_service(store, real_detectors=True, portrait_workers=1) as client:
        yield client


def two_people() -> Image.Image:
    picture = Image.new("RGB", (1200, 600), "#888888")
    for left, seed in ((0, 1), (600, 2)):
        picture.paste(drawn(seed=seed), (left, 0))
    return picture


@pytest.mark.parametrize(
    ("image", "fails"),
    [
        (lambda: drawn(790, 1166, face_width=0.4), set()),
        (lambda: drawn(seed=4), set()),
        (lambda: drawn(180, 180, face_width=0.4), {"face_width"}),
        (lambda: drawn(mouth_open=0.6), {"mouth_closed"}),
        (lambda: drawn(face_center=(0.15, 0.45)), {"face_inside"}),
        (lambda: drawn(face_center=(0.5, 0.1)), {"face_inside"}),
        (lambda: drawn(700, 700, face_width=0.4).rotate(25, fillcolor="#888888"), {"roll"}),
        (lambda: drawn().filter(ImageFilter.GaussianBlur(3)), {"sharpness"}),
        (lambda: drawn().point(lambda value: min(255, round(value * 2.5))), {"exposure"}),
        (two_people, {"one_face"}),
        (lambda: Image.effect_noise((600, 600), 80), {"face_found"}),
    ],
    ids=["good", "dark-skin", "small", "open", "cut-left", "cut-top", "tilted", "blurred", "bright", "two", "noise"],
)
def test_check_drawn_portraits_with_installed_detector(
    real_service: httpx.Client, image: Callable[[], Image.Image], fails: set[str]
) -> None:
    report = check(real_service, encoded(image()))
    assert failed(report) == fails
    if not fails:
        assert all(item["passed"] is True for item in report["checks"].values())
