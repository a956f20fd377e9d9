"""The operations on images: predictions, features, explanations, similar images."""

import asyncio
from typing import Annotated, Any, Literal

import torch
from fastapi import APIRouter, Path, Query
from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vggnet.features.extractor import Pooling
from vggnet.interpret.explanation import Explanation
from vggnet.interpret.layers import layer_names
from vggnet.report.text import to_plain
from vggnet.serving.heatmap import blended, heatmap_of, picture_of, png, png_text
from vggnet.serving.messages import (
    Explanations,
    Features,
    Matches,
    ModelFacts,
    Models,
    Predictions,
    failures,
)
from vggnet.serving.refusals import Refusal
from vggnet.serving.served_model import Question, ServedModel
from vggnet.serving.service import Service
from vggnet.serving.uploads import REQUEST_BODY, read_images
from vggnet.tasks.class_prediction import TOP, rank_classes

MOST = 1000  # classes or matches of an answer

ModelName = Annotated[str | None, Query(description="one of /models; by default the first one")]
UPLOAD = {"requestBody": REQUEST_BODY}


def image_routes(service: Service) -> APIRouter:
    """The routes of a server."""
    router = APIRouter(tags=["images"])
    catalog, limits = service.catalog, service.limits

    @router.get("/models", responses=failures())
    async def models() -> Models:
        """List the models that are served."""
        searcher = next((model.name for model in catalog.all() if model.index), None)
        shown = {"max_body": limits.max_body, "max_images": limits.max_images}
        return Models(models=[_facts(model) for model in catalog.all()], similar=searcher, limits=shown)

    # It writes its JSON itself: validating what was just made would take longer than making it.
    @router.post("/predict", responses=failures(404, 422), openapi_extra=UPLOAD, response_model=Predictions)
    async def predict(
        request: Request, model: ModelName = None, top: Annotated[int, Query(ge=1, le=MOST)] = TOP
    ) -> Response:
        """Predict what images show."""
        images = await read_images(request, limits)
        chosen = catalog.get(model)
        chosen.check_predicts()
        work = chosen.classify if chosen.ranks_classes else chosen.find
        with chosen.batcher.admit(len(images)) as admission:
            pixels = await service.decode(chosen, images, chosen.view)
            found = await admission.compute(work, pixels)
        if not chosen.ranks_classes:
            return JSONResponse({"model": chosen.name, "predictions": None, "found": [to_plain(one) for one in found]})
        ranked = rank_classes(chosen.opened, torch.stack(found), top)
        predictions = [{"classes": classes, "probabilities": shares} for classes, shares in ranked]
        return JSONResponse({"model": chosen.name, "predictions": predictions, "found": None})

    @router.post("/features", responses=failures(404, 422), openapi_extra=UPLOAD)
    async def features(
        request: Request,
        layer: Annotated[str, Query(description="by the paper's names, such as relu4_3 or fc7")],
        model: ModelName = None,
        pooling: Annotated[Pooling, Query(description="over the places of a map")] = "mean",
    ) -> Features:
        """Compute the values of a layer."""
        images = await read_images(request, limits)
        chosen = catalog.get(model)
        work = chosen.features(layer, pooling)
        with chosen.batcher.admit(len(images)) as admission:
            pixels = await service.decode(chosen, images, "crop")
            found = await admission.compute(work, pixels)
        return Features(model=chosen.name, layer=layer, pooling=pooling, features=[row.tolist() for row in found])

    @router.post(
        "/explain",
        responses={
            **failures(404, 422),
            200: {"model": Explanations, "content": {"image/png": {}}, "description": "PNG if the request accepts it"},
        },
        openapi_extra=UPLOAD,
    )
    async def explain(
        request: Request,
        model: ModelName = None,
        target: Annotated[str | None, Query(description="a class by name or index; by default the predicted")] = None,
        method: Literal["gradcam", "gradcam++", "layercam"] = "gradcam",
        layer: Annotated[str | None, Query(description="by default the deepest whose map is not too small")] = None,
    ) -> Response:
        """Show which pixels count for a class. With `Accept: image/png`, as one picture for one image."""
        images = await read_images(request, limits)
        chosen = catalog.get(model)
        chosen.check_ranks_classes()
        as_png = request.headers.get("accept", "").partition(",")[0].strip() == "image/png"
        if as_png and len(images) > 1:
            raise Refusal(400, f"the request has {len(images)} images; one is answered as PNG, several as JSON.")
        with chosen.batcher.admit(len(images)) as admission:
            pixels = await service.decode(chosen, images, "resized")
            questions = [Question(picture, target, method, layer) for picture in pixels]
            found = await admission.compute(chosen.explain, questions)
        if as_png:
            return Response(png(blended(found[0])), media_type="image/png")
        explained = [_explained(one) for one in found]
        body = Explanations.model_validate({"model": chosen.name, "explanations": explained})
        return JSONResponse(body.model_dump())

    @router.post("/similar", responses=failures(404, 422), openapi_extra=UPLOAD)
    async def similar(request: Request, top: Annotated[int, Query(ge=1, le=MOST)] = 8) -> Matches:
        """Find the most similar images of the index."""
        images = await read_images(request, limits)
        chosen = catalog.searcher()
        assert chosen.index is not None
        names = chosen.index.names
        with chosen.batcher.admit(len(images)) as admission:
            pixels = await service.decode(chosen, images, "resized")
            found = await admission.compute(chosen.search, [(picture, top) for picture in pixels])
        matches = [[{"name": names[one.position], **one._asdict()} for one in row] for row in found]
        return Matches.model_validate({"model": chosen.name, "matches": matches})

    @router.get(
        "/similar/{position}",
        responses={
            **failures(404, 422),
            200: {"content": {"image/png": {}}, "description": "the image, scaled down"},
        },
        response_class=Response,
    )
    async def thumbnail(position: Annotated[int, Path(ge=0, le=1 << 31)]) -> Response:
        """Show an image of the index."""
        chosen = catalog.searcher()
        assert chosen.index is not None
        try:
            file = await asyncio.to_thread(chosen.index.read, position)
        except (IndexError, OSError):
            raise Refusal(404, f"the index has no image {position}, or its file is gone.") from None
        (pixels,) = await service.decode(chosen, [file], "thumbnail")
        return Response(await asyncio.to_thread(png, Image.fromarray(pixels)), media_type="image/png")

    return router


def _facts(model: ServedModel) -> ModelFacts:
    opened = model.opened
    return ModelFacts(
        name=model.name,
        architecture=opened.network.architecture.name,
        task=model.task.name,
        ranks_classes=model.ranks_classes,
        classes=None if opened.classes is None else list(opened.classes),
        num_classes=opened.num_classes,
        input_shape=list(model.input_shape),
        layers=layer_names(opened.network),
    )


def _explained(explanation: Explanation) -> dict[str, Any]:
    ((method, attribution),) = explanation.attributions.items()
    return {
        "name": explanation.name,
        "index": explanation.index,
        "probability": explanation.probability,
        "method": method,
        "layer": attribution.facts["layer"],
        "note": attribution.facts.get("note"),
        "picture": png_text(picture_of(explanation)),
        "heatmap": png_text(heatmap_of(explanation)),
    }
