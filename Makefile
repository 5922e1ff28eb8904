# mdcluster: `make help` lists what can be done here.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
SEEDS  ?= 1000

.DEFAULT_GOAL := help
.PHONY: help demo test lint unit scenarios planted cluster sim bench tools clean
.PHONY: generated vm vm-smoke vm-soak vm-tools lab install-host vm-bench

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: $(READY) ## three daemons, a RAID1, a resync taken over: watch it (under 40 s)
	@$(BIN)/python -m tests.demo

test: tools $(READY) lint cluster $(or $(VM),vm-smoke) unit scenarios planted sim ## everything (VM=vm: all of the vm tier; -j2 -Otarget: sooner)

# With -j2 what only computes runs beside what is timed, and yields to it; never two that are timed.
ifneq ($(filter test,$(MAKECMDGOALS)),)
lint unit scenarios planted sim cluster vm-tools: | tools
vm vm-smoke vm-tools: | cluster
endif
YIELD := nice -n 19

lint: $(READY) ## formatting, linter, strict types
	$(YIELD) $(BIN)/ruff format --check .
	$(YIELD) $(BIN)/ruff check .
	$(YIELD) $(BIN)/mypy

unit: $(READY) ## pure functions, codecs, formats, drivers
	$(YIELD) $(BIN)/pytest -q tests/unit

scenarios: $(READY) ## several cores, step by step (REWRITE=1 rewrites what they print)
	$(YIELD) $(BIN)/pytest -q tests/scenarios $(if $(REWRITE),--rewrite)

planted: $(READY) ## bugs put into the core on purpose: the simulator must catch each
	$(YIELD) $(BIN)/pytest -q tests/sim

cluster: $(READY) ## real daemons, real sockets, real files
	$(BIN)/pytest -q tests/cluster

sim: $(READY) ## SEEDS=N simulated clusters, or REPLAY=seed to see one in words
	$(YIELD) $(BIN)/python -m tests.sim.run $(if $(REPLAY),--replay $(REPLAY),--seeds $(SEEDS))

vm: vm-tools $(READY) ## stock kernels in virtual machines (KERNEL=6.12: all tests on this one)
	MDCLUSTER_VM_KERNEL=$(KERNEL) $(BIN)/pytest -q --durations=12 tests/vm

vm-soak: vm-tools $(READY) ## ROUNDS=10 of every proof at random moments, both kernels (VM_SEED=n: again)
	MDCLUSTER_VM_KERNEL=$(KERNEL) MDCLUSTER_VM_ROUNDS=$(or $(ROUNDS),10) MDCLUSTER_VM_SEED=$(VM_SEED) \
		$(BIN)/pytest -v tests/vm/test_proofs.py tests/vm/test_other_eyes.py

vm-bench: vm-tools $(READY) ## the figures of real kernels (KERNEL=6.1, ROUNDS=5, FIGURE=takeover)
	$(BIN)/python -m tests.vm.bench $(if $(KERNEL),--kernel $(KERNEL)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(addprefix --figure ,$(FIGURE))

vm-smoke: vm-tools $(READY) ## the few of them that show that the tier works
	MDCLUSTER_VM_KERNEL=$(KERNEL) $(BIN)/pytest -q -m smoke tests/vm

lab: vm-tools $(READY) ## three such machines that stay, with a shell on each (KERNEL=6.1)
	@$(BIN)/python -m tests.vm.lab up $(if $(KERNEL),--kernel $(KERNEL))

bench: $(READY) ## the figures of docs/PERFORMANCE.md
	$(BIN)/python -m tests.bench

tools: ## the tools that tests compare with: installed if root, named if not
	@tests/need-tools.sh mdadm:mdadm qemu-io:qemu-utils nbdinfo:libnbd-bin strace:strace man:man-db

vm-tools: ## the tools of the vm tier, likewise
	@tests/need-tools.sh qemu-system-x86_64:qemu-system-x86 busybox:busybox-static depmod:kmod \
		dmsetup:dmsetup mke2fs:e2fsprogs setpriv:util-linux mdadm:mdadm

$(READY): setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --disable-pip-version-check --editable '.[dev]' >$(VENV)/install.log 2>&1 \
		|| { cat $(VENV)/install.log; exit 1; }
	@touch $@

generated: $(READY) ## docs/MDADM.md, the page mdcadm(8) and completions, from the table of options
	$(BIN)/python -m mdcluster.tools.pages

install-host: ## the unit and the udev rules of this host, as root (see docs/INSTALL.md)
	install -D -m 644 daemon/mdclusterd.service $(DESTDIR)/etc/systemd/system/mdclusterd.service
	install -D -m 644 daemon/udev/63-mdcluster.rules $(DESTDIR)/etc/udev/rules.d/63-mdcluster.rules
	install -D -m 644 docs/man/mdcadm.8 $(DESTDIR)/usr/local/share/man/man8/mdcadm.8
	install -D -m 644 docs/man/mdclusterd.8 $(DESTDIR)/usr/local/share/man/man8/mdclusterd.8
	install -D -m 644 docs/man/mdcinspect.8 $(DESTDIR)/usr/local/share/man/man8/mdcinspect.8
	install -D -m 644 docs/man/clusterips.5 $(DESTDIR)/usr/local/share/man/man5/clusterips.5
	install -D -m 644 docs/man/mdcluster.toml.5 $(DESTDIR)/usr/local/share/man/man5/mdcluster.toml.5
	install -D -m 644 tools/completion/mdcadm.bash $(DESTDIR)/usr/share/bash-completion/completions/mdcadm
	install -D -m 644 tools/completion/_mdcadm $(DESTDIR)/usr/share/zsh/vendor-completions/_mdcadm
	install -D -m 644 tools/completion/mdcadm.fish $(DESTDIR)/usr/share/fish/vendor_completions.d/mdcadm.fish

clean: ## remove what was built here
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
