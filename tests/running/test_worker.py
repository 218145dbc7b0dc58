"""What a worker does before it has its order."""

from __future__ import annotations

import gc

from fgbench.running import worker


def test_no_garbage_is_looked_for_while_it_imports_and_it_is_again_after(monkeypatch):
    imported: dict[str, bool] = {}
    monkeypatch.setattr(worker, "import_module", lambda name: imported.setdefault(name, gc.isenabled()))
    worker._import_ahead()
    assert set(imported.values()) == {False}
    assert gc.isenabled()
