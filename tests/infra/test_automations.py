"""What the server tells people by itself."""

import asyncio
import json
import socketserver
import threading
from collections.abc import Iterator
from typing import ClassVar
from uuid import uuid4

import pytest
from prefect.blocks.notifications import SlackWebhook
from prefect.server.events.actions import CallWebhook
from prefect.server.schemas.core import Flow, FlowRun
from prefect.server.utilities.user_templates import render_user_template
from pydantic import SecretStr

from infra.automations import ENDED, TOLD, ZOMBIES, _payload


class Mailbox(socketserver.StreamRequestHandler):
    """As much of SMTP as it takes to be handed a letter."""

    letters: ClassVar[list[bytes]] = []

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        for line in self.rfile:
            if line.upper().startswith(b"DATA"):
                self.wfile.write(b"354 go on\r\n")
                self.letters.append(b"".join(iter(self.rfile.readline, b".\r\n")))
            self.wfile.write(b"250 fine\r\n")
            if line.upper().startswith(b"QUIT"):
                return


@pytest.fixture
def mailbox() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mailbox) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Apprise asks for imghdr
def test_the_block_that_bears_the_name_of_slack_sends_mail(mailbox: int) -> None:
    address = f"mailto://127.0.0.1:{mailbox}?mode=insecure&from=dlpk@example.org&to=ops@example.org"
    SlackWebhook(url=SecretStr(address)).notify("Flow run infer/a is crashed", "A flow run is crashed")
    (letter,) = Mailbox.letters
    assert b"ops@example.org" in letter
    assert b"A flow run is crashed" in letter


def test_a_run_without_heartbeat_is_a_zombie_whatever_else_it_did_not_do() -> None:
    names = {f"prefect.flow-run.{end}" for end in ("heartbeat", *ENDED)}
    assert names == ZOMBIES.trigger.expect  # type: ignore[union-attr]
    assert {"Failed", "Crashed", "Late"} == set(TOLD.values())


def test_a_webhook_is_told_json_whatever_a_run_is_called() -> None:
    name, flow = 'the "east"\\west\n', Flow(id=uuid4(), name="infer")
    run = FlowRun(id=uuid4(), flow_id=flow.id, name=name)
    action = CallWebhook(block_document_id=uuid4(), payload=_payload("late"))
    told = json.loads(asyncio.run(render_user_template(action.payload, {"flow": flow, "flow_run": run})))
    text = told.pop("text")
    assert {"what": "late", "run": name, "flow": "infer", "id": str(run.id)} == told
    assert f"Flow run infer/{name} is late: " in text
