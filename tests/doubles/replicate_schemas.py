"""What the doubled models take, give and cost, and the vendor's words for an input that does not fit.

Schemas after replicate.com's API pages of the models; the error bodies after recorded replies. Stricter than the
vendor in one point: a field a model does not have is refused, so that a wrong order cannot go unnoticed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError

_URI = {"type": "string", "format": "uri"}
_TEXT = {"type": "string"}
_FLAG = {"type": "boolean"}
_FLUX_RATIOS = ["1:1", "16:9", "3:2", "2:3", "4:5", "5:4", "9:16", "3:4", "4:3"]
_KONTEXT_RATIOS = ["match_input_image", *_FLUX_RATIOS, "21:9", "9:21", "2:1", "1:2"]


def _whole(low: int | None = None, high: int | None = None) -> dict[str, Any]:
    bounds = {"minimum": low, "maximum": high}
    return {"type": "integer"} | {key: value for key, value in bounds.items() if value is not None}


def _one_of(*values: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


@dataclass(frozen=True, slots=True)
class ModelSheet:
    """One official model. `price_usd` is for one output picture."""

    name: str
    price_usd: Decimal
    photo_field: str
    default_format: str
    gives_list: bool
    fields: Mapping[str, Mapping[str, Any]]

    @property
    def takes_seed(self) -> bool:
        return "seed" in self.fields

    def input_schema(self) -> dict[str, Any]:
        properties = {"prompt": _TEXT, **self.fields}
        return {"type": "object", "required": ["prompt"], "properties": properties, "additionalProperties": False}


SHEETS: Mapping[str, ModelSheet] = {
    sheet.name: sheet
    for sheet in (
        ModelSheet(
            name="black-forest-labs/flux-2-pro",
            price_usd=Decimal("0.045"),
            photo_field="input_images",
            default_format="webp",
            gives_list=False,
            fields={
                "input_images": {"type": "array", "items": _URI, "maxItems": 8},
                "aspect_ratio": _one_of("match_input_image", "custom", *_FLUX_RATIOS),
                "resolution": _one_of("match_input_image", "0.5 MP", "1 MP", "2 MP", "4 MP"),
                "width": _whole(256, 2048),
                "height": _whole(256, 2048),
                "seed": _whole(),
                "safety_tolerance": _whole(1, 5),
                "output_format": _one_of("webp", "jpg", "png"),
                "output_quality": _whole(0, 100),
                "prompt_upsampling": _FLAG,
            },
        ),
        ModelSheet(
            name="black-forest-labs/flux-kontext-pro",
            price_usd=Decimal("0.04"),
            photo_field="input_image",
            default_format="png",
            gives_list=False,
            fields={
                "input_image": _URI,
                "aspect_ratio": _one_of(*_KONTEXT_RATIOS),
                "seed": _whole(),
                "safety_tolerance": _whole(0, 6),
                "output_format": _one_of("jpg", "png"),
                "prompt_upsampling": _FLAG,
            },
        ),
        ModelSheet(
            name="black-forest-labs/flux-1.1-pro",
            price_usd=Decimal("0.04"),
            photo_field="image_prompt",
            default_format="webp",
            gives_list=False,
            fields={
                "image_prompt": _URI,
                "aspect_ratio": _one_of("custom", *_FLUX_RATIOS),
                "width": _whole(256, 1440),
                "height": _whole(256, 1440),
                "seed": _whole(),
                "safety_tolerance": _whole(1, 6),
                "output_format": _one_of("webp", "jpg", "png"),
                "output_quality": _whole(0, 100),
                "prompt_upsampling": _FLAG,
            },
        ),
        ModelSheet(
            name="bytedance/seedream-4",
            price_usd=Decimal("0.03"),
            photo_field="image_input",
            default_format="jpg",
            gives_list=True,
            fields={
                "image_input": {"type": "array", "items": _URI, "maxItems": 10},
                "aspect_ratio": _one_of("match_input_image", "1:1", "4:3", "3:4", "16:9", "9:16", "3:2", "2:3", "21:9"),
                "size": _one_of("1K", "2K", "4K", "custom"),
                "width": _whole(1024, 4096),
                "height": _whole(1024, 4096),
                "sequential_image_generation": _one_of("disabled", "auto"),
                "max_images": _whole(1, 15),
                "enhance_prompt": _FLAG,
            },
        ),
    )
}

_formats = FormatChecker(formats=())


@_formats.checks("uri")
def _is_fetchable(value: object) -> bool:
    return not isinstance(value, str) or value.startswith(("http://", "https://", "data:"))


def input_problems(sheet: ModelSheet, given: object) -> list[dict[str, str]]:
    """Where the input does not fit, as the vendor's `invalid_fields`; empty when it does."""
    validator = Draft202012Validator(sheet.input_schema(), format_checker=_formats)
    problems = [_problem(error) for error in sorted(validator.iter_errors(given), key=str)]
    # The page of the Kontext models: 2 is the maximum as soon as there is an input image.
    if sheet.photo_field == "input_image" and isinstance(given, dict) and "input_image" in given:
        tolerance = given.get("safety_tolerance", 2)
        if isinstance(tolerance, int) and tolerance > 2:
            problems.append(_as_field("number_lte", "input.safety_tolerance", "Must be less than or equal to 2"))
    return problems


def refusal_body(problems: list[dict[str, str]]) -> dict[str, Any]:
    """The 422 body around `invalid_fields`."""
    detail = "".join(f"- {problem['field']}: {problem['description']}\n" for problem in problems)
    return {"detail": detail, "status": 422, "title": "Input validation failed", "invalid_fields": problems}


def _problem(error: ValidationError) -> dict[str, str]:
    field = ".".join(["input", *(str(step) for step in error.absolute_path)])
    name = field.rsplit(".", 1)[-1]
    match error.validator:
        case "required":
            missing = str(error.message).split("'")[1]
            return _as_field("required", field, f"{missing} is required")
        case "enum":
            allowed: list[str] = error.schema["enum"]  # type: ignore[index]
            choices = ", ".join(f'"{choice}"' for choice in allowed)
            return _as_field("enum", field, f"{name} must be one of the following: {choices}")
        case "maximum":
            return _as_field("number_lte", field, f"Must be less than or equal to {error.validator_value}")
        case "minimum":
            return _as_field("number_gte", field, f"Must be greater than or equal to {error.validator_value}")
        case "maxItems":
            return _as_field("array_max_items", field, f"Array must have at most {error.validator_value} items")
        case "additionalProperties":
            return _as_field("additional_property_not_allowed", field, str(error.message))
        case "type":
            given = {dict: "object", list: "array", str: "string", bool: "boolean"}.get(type(error.instance), "number")
            return _as_field("invalid_type", field, f"Invalid type. Expected: {error.validator_value}, given: {given}")
        case _:
            return _as_field("format", field, f"Does not match format '{error.validator_value}'")


def _as_field(kind: str, field: str, description: str) -> dict[str, str]:
    return {"type": kind, "field": field, "description": description}
