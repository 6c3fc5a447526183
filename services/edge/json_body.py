"""Bodies as JSON, read quickly: a screenshot is one string of hundreds of kilobytes."""

import json
from typing import Any

from fastapi import Request
from pydantic_core import from_json


class JsonRequest(Request):
    """A request whose JSON pydantic's parser reads; what that does not take, Python's own reads or refuses."""

    async def json(self) -> Any:
        body = await self.body()
        try:
            return from_json(body)
        except ValueError:
            return json.loads(body)
