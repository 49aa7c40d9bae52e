# Every target does its own set-up. `make setup` costs a fraction of a second when nothing changed.
.PHONY: setup demo test check bench clean

setup:
	@./deployments/setup.sh

demo: setup
	@.venv/bin/simyard train examples/cartpole-training-config.json --store demo
	@.venv/bin/simyard evaluate examples/cartpole-evaluation-config.json --job latest --store demo
	@.venv/bin/simyard export-policy --job latest --store demo

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
