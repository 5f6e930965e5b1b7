"""Which version was champion when and why; and the two changes that a person makes: promote and roll back."""

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response

from registry import catalog, history, promotion
from registry.errors import Conflict, OptionsError
from registry.web.access import OWN_PAGE, Browsing, Promoting, Visitor
from registry.web.forms import posted
from registry.web.templating import render

router = APIRouter(prefix="/models/{name}", include_in_schema=False)


@router.get("/history")
def champions(request: Request, _: Browsing, name: str) -> Response:
    """Every decision about the alias champion, newest first."""
    catalog.versions(name)
    facts = {"name": name, "events": history.history(name), "champion": catalog.champion(name)}
    return render(request, "history.html", facts)


@router.post("/promote", dependencies=[OWN_PAGE])
async def promote(request: Request, who: Promoting, name: str) -> Response:
    """Give the alias champion to a version."""
    form = dict(await posted(request))
    await run_in_threadpool(promoted, name, form.get("number", ""), form.get("reason", ""), who, form.get("holder", ""))
    return RedirectResponse(f"/models/{name}/history", 303)


@router.post("/rollback", dependencies=[OWN_PAGE])
async def rollback(request: Request, who: Promoting, name: str) -> Response:
    """Give it back to the version that held it before."""
    form = dict(await posted(request))
    await run_in_threadpool(rolled_back, name, form.get("holder", ""), form.get("reason", ""), who)
    return RedirectResponse(f"/models/{name}/history", 303)


def promoted(name: str, number: str, reason: str, who: Visitor, holder: str = "") -> catalog.Version:
    """Raises OptionsError without a version or a reason, Conflict as `rolled_back`."""
    if not (number.isascii() and number.isdecimal() and len(number) < 10):
        raise OptionsError("expected the number of a version", got=number[:50])
    _check_holder(name, holder)
    return promotion.promote(name, int(number), reason=needed(reason), by=who.name)


def rolled_back(name: str, holder: str, reason: str, who: Visitor) -> catalog.Version:
    """`holder`: the champion that the page showed, 0: none. Raises Conflict when another is in use meanwhile."""
    _check_holder(name, holder)
    return promotion.rollback(name, reason=needed(reason), by=who.name)


def _check_holder(name: str, holder: str) -> None:
    now = catalog.champion(name)
    if holder and str(now.number if now else 0) != holder:
        do = "look at the history again"
        raise Conflict(f"{now.ref if now else 'nothing'} is champion meanwhile", where=name, do=do)


def needed(reason: str) -> str:
    if not reason.strip():
        raise OptionsError("a reason is needed", do="say why; it stays in the history")
    return reason.strip()[: history.LONGEST_REASON]
