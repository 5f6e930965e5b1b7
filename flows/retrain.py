"""Retrain: imagery and labels in, a published model version out.

Triggered weekly, when labels or imagery changed, and on demand (prefect.yaml), or by `dlpk retrain recipe.yaml`, which
needs no server. Returns the version's name, `roofs@4`; the run page shows its scores, its place and why it is champion.
"""

from prefect import flow

from flows import steps, work
from flows.listening import about, run_tags
from flows.recipe import Recipe


@flow(name="retrain")
def retrain(recipe: Recipe, only_if_changed: bool = False) -> str:
    """Train a model by a recipe, publish it, and make it champion if it is better than the champion of today.

    Args:
        recipe: imagery, labels, and how to cut, train and describe
        only_if_changed: do nothing where the newest version was made by this recipe of these very files
    """
    if only_if_changed and (known := steps.unchanged(recipe)):
        return known
    with about(model=recipe.name), work.opened(recipe, run_tags()) as place:
        start = steps.begin(place)
        training, held_out = steps.divide(recipe)
        chips = steps.export(place, training)
        unseen = steps.export(place, held_out)
        model = steps.train(place, chips, start)
        scores = steps.evaluate(place, model, unseen)
        package = steps.package(place, model)
        version = steps.publish(place, package, chips, scores, start)
        verdict = steps.promote(place, version, scores, unseen)
        steps.report(place, version, scores, verdict)
    return version.ref
