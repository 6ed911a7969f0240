"""What is done in any order, over the real thing, next to a model in plain Python that says what must hold."""

import logging

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test


def run(machine: type[RuleBasedStateMachine], *collaborators: object, examples: int, steps: int) -> None:
    """Try `examples` sequences of up to `steps` rules, the same ones in every run, and shrink one that fails."""
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=True,
        database=None,
        deadline=None,  # a step asks real servers, and the machine may be busy
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    logging.disable()  # thousands of lines would hide the one example that a failure ends with
    try:
        run_state_machine_as_test(lambda: machine(*collaborators), settings=chosen)
    finally:
        logging.disable(logging.NOTSET)
