#!/usr/bin/env python3
"""What TensorBoard's own reader finds in the event files of a run directory, as JSON: of each curve its steps and values,
of each text the text.

    .venv-tensorboard/bin/python tests/read_events.py RUN
"""

import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def main() -> None:
    # 0: all of them, where the default is a sample. Events that look like those of a restart stay too.
    events = EventAccumulator(sys.argv[1], size_guidance={"tensors": 0}, purge_orphaned_data=False)
    events.Reload()
    found = {"curves": {}, "texts": {}}
    for tag in events.Tags()["tensors"]:
        tensors = [(event.step, event.tensor_proto) for event in events.Tensors(tag)]
        if tensors[0][1].string_val:
            found["texts"][tag] = tensors[0][1].string_val[0].decode()
        else:
            found["curves"][tag] = [(step, tensor.float_val[0]) for step, tensor in tensors]
    for tag in events.Tags()["scalars"]:
        found["curves"][tag] = [(event.step, event.value) for event in events.Scalars(tag)]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
