"""A dial is declared once, beside the verb that turns it.

Every verb has one options class. The command line flags, the form in Prefect's page, the parameters in MLflow and the
docs are all derived from its fields, so each field carries its unit and its reason.
"""

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """The base of every verb's options: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
