"""Reads metrics on stdin with Prometheus' own client and prints every sample as JSON; ends with 1 and a line if they break a rule."""

import json
import sys

from prometheus_client.parser import text_string_to_metric_families

text = sys.stdin.read()
assert text.endswith("\n"), "the last line has no end"
samples = {}
names = set()
for family in text_string_to_metric_families(text):
    assert family.type in ("counter", "gauge", "histogram"), f"{family.name} is {family.type}"
    assert family.documentation.endswith("."), f"{family.name} has no help"
    assert family.name not in names, f"{family.name} comes twice"
    assert family.name.startswith("captionacc_"), family.name
    names.add(family.name)
    histograms = {}
    for sample in family.samples:
        labels = ",".join(f'{label}="{value}"' for label, value in sorted(sample.labels.items()))
        key = sample.name + (f"{{{labels}}}" if labels else "")
        assert key not in samples, f"{key} comes twice"
        samples[key] = sample.value
        if family.type == "counter":
            assert sample.name.endswith("_total") and sample.value >= 0, key
        if family.type == "histogram":
            rest = tuple(sorted((label, value) for label, value in sample.labels.items() if label != "le"))
            histograms.setdefault(rest, {})[sample.name.removeprefix(family.name) + sample.labels.get("le", "")] = sample.value
    for counts in histograms.values():
        buckets = [value for name, value in counts.items() if name.startswith("_bucket")]
        assert buckets == sorted(buckets), f"{family.name} is not summed up: {counts}"
        assert counts["_bucket+Inf"] == counts["_count"], f"{family.name}: {counts}"
        assert "_sum" in counts, family.name
print(json.dumps(samples))
