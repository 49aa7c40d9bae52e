# Every target does its own set-up. `make setup` costs a fraction of a second when nothing changed.
.PHONY: setup demo test test-fast test-long mutants check client pages docs pictures bench metrics clean

# Bytecode is kept, whatever the environment says: a process that finds none compiles for seconds.
export PYTHONDONTWRITEBYTECODE =

# Four on two cores: while some wait for a server or a grace, the others compute.
PYTEST = .venv/bin/python -m pytest -n 4 --dist loadgroup --no-loadscope-reorder

setup:
	@./deployments/setup.sh

demo: setup
	@.venv/bin/simyard run examples/cartpole-training-config.json examples/cartpole-evaluation-config.json \
	    examples/cartpole-export-config.json --store demo

# Every mechanism once on the real thing; 15 minutes on two cores.
test: setup
	@$(PYTEST) -m "not long"

# In process only: no simulator, server, container or browser; 3 minutes.
test-fast: setup
	@$(PYTEST) -m "not (sim or system or long)"

# The rest: fifty jobs a library, full fault matrices, images, load, long fuzzing, further kills.
test-long: setup
	@$(PYTEST) -m long

# Bugs put in one at a time: which test catches each, in which tier; names in MUTANTS.
mutants: setup
	@.venv/bin/python tests/mutants/run.py $(MUTANTS)

check: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

# The synchronous client, from the asynchronous one.
client: setup
	@.venv/bin/python tests/sdk/generate_client.py

# docs/errors.md and docs/reference from the code, the instances in docs/aws.md from deployments/instances.json.
pages: setup
	@.venv/bin/python tests/generate_pages.py

# The documents as a site, in build/site; broken links and anchors end it.
docs: setup
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet --strict

# The pictures of the documents, by real jobs and their pages in Chromium; ten minutes. PARTS="sweep view" makes some.
pictures: setup
	@.venv/bin/python tests/make_pictures.py $(PARTS)

bench: setup
	@.venv/bin/python benchmarks/startup.py
	@.venv/bin/python benchmarks/overhead.py
	@.venv/bin/python benchmarks/evaluation.py
	@.venv/bin/python benchmarks/transfer.py

# The code itself in figures: sizes, docstrings, untyped dicts; other projects' folders in TREES.
metrics: setup
	@.venv/bin/python benchmarks/source.py --folders $(TREES)

clean:
	rm -rf .venv build demo
