# Every target does its own set-up. `make setup` costs a fraction of a second when nothing changed.
.PHONY: setup demo test check bench clean

setup:
	@./deployments/setup.sh

demo: setup
	@.venv/bin/simyard run examples/cartpole-training-config.json examples/cartpole-evaluation-config.json \
	    examples/cartpole-export-config.json --store demo

test: setup
	@.venv/bin/python -m pytest -n 2 --dist loadfile

check: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

bench: setup
	@.venv/bin/python benchmarks/overhead.py
	@.venv/bin/python benchmarks/metrics_csv.py
	@.venv/bin/python benchmarks/evaluation.py
	@.venv/bin/python benchmarks/transfer.py

clean:
	rm -rf .venv build demo
