"""What benchmarks share."""

import pytest


@pytest.fixture
def in_a_kernel():
    """A function that runs a piece of code in a kernel of its own and returns what it prints."""

    def run(code: str) -> str:
        """What a piece of code prints in a kernel of its own."""
        from jupyter_client.manager import start_new_kernel

        manager, client = start_new_kernel(kernel_name="python3")
        printed: list[str] = []
        try:
            reply = client.execute_interactive(
                code, timeout=900, output_hook=lambda message: printed.append(message["content"].get("text", ""))
            )
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
        if reply["content"]["status"] != "ok":
            raise AssertionError("\n".join(reply["content"].get("traceback", ())))
        return "".join(printed)

    return run
