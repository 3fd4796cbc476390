"""A real Slurm on this machine: two nodes of one CPU and one pretended GPU, everything on loopback, ended by pid."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PROGRAMS = (
    "munged",
    "mariadbd",
    "mariadb-install-db",
    "slurmdbd",
    "slurmctld",
    "slurmd",
    "sbatch",
    "sacct",
    "sacctmgr",
)
NODES = ("n0", "n1")


@dataclass
class Slurm:
    """The daemons by name, and the folder with their logs."""

    folder: Path
    daemons: dict[str, subprocess.Popen] = field(default_factory=dict)

    def start(self, name: str, *command: str) -> None:
        # Some of them begin to log before they read their settings, and give up without /var/log/slurm: all to a file.
        with (self.folder / f"{name}.out").open("ab") as log:
            self.daemons[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        daemon = self.daemons.pop(name)
        daemon.send_signal(number)
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def start_node(self, name: str) -> None:
        self.start(f"slurmd-{name}", "slurmd", "-D", "-N", name, "-f", str(self.folder / "slurm.conf"))

    def run(self, *command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def until(self, condition, what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            logs = "\n".join(f"{p.name}: {p.read_text()[-800:]}" for p in sorted(self.folder.glob("*.out")))
            assert time.monotonic() < deadline, f"{what}\n{logs}"
            time.sleep(0.2)

    def succeeds(self, *command: str) -> bool:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    paths = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    missing = [program for program in PROGRAMS if shutil.which(program, path=paths) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"no Slurm to test with: {', '.join(missing) or 'root'} is needed")
    folder = Path("/tmp") / f"sohes-slurm-{os.getpid()}"  # short: sockets allow 107 letters
    for name in ("db", "state", "spool-n0", "spool-n1"):
        (folder / name).mkdir(parents=True)
    cluster = Slurm(folder)
    before = dict(os.environ)
    # MYSQL_UNIX_PORT: slurmdbd has no setting for the socket.
    os.environ.update(PATH=paths, SLURM_CONF=str(folder / "slurm.conf"), MYSQL_UNIX_PORT=str(folder / "sql.socket"))
    try:
        _start(cluster)
        yield cluster
    finally:
        for name in reversed(list(cluster.daemons)):
            cluster.end(name)
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def _start(cluster: Slurm) -> None:
    folder = cluster.folder
    dbd_port, ctld_port, *node_ports = free_ports(2 + len(NODES))
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    munge = f"{folder}/munge.socket"
    cluster.start(
        "munged", "munged", "--foreground", "--force", f"--key-file={folder}/munge.key", f"--socket={munge}",
        f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed",
    )  # fmt: skip
    sql = f"{folder}/sql.socket"
    subprocess.run(
        ["mariadb-install-db", "--no-defaults", f"--datadir={folder}/db", "--user=root", "--skip-test-db",
         "--auth-root-authentication-method=normal"], check=True, capture_output=True,
    )  # fmt: skip
    cluster.start(
        "mariadbd", "mariadbd", "--no-defaults", f"--datadir={folder}/db", "--user=root", "--skip-networking",
        f"--socket={sql}", f"--pid-file={folder}/sql.pid", "--innodb-buffer-pool-size=64M",
        "--innodb-flush-log-at-trx-commit=0",
    )  # fmt: skip
    auth = f"AuthType=auth/munge\nAuthInfo=socket={munge},cred_expire=5\nSlurmUser=root\n"
    (folder / "slurmdbd.conf").write_text(
        f"{auth}DbdHost=localhost\nDbdAddr=127.0.0.1\nDbdPort={dbd_port}\nStorageType=accounting_storage/mysql\n"
        f"StorageHost=localhost\nStorageUser=root\nStorageLoc=slurm\nPidFile={folder}/dbd.pid\n"
        f"LogFile={folder}/dbd.log\nCommunicationParameters=NoInAddrAny\n"
    )
    (folder / "slurmdbd.conf").chmod(0o600)
    nodes = "".join(
        f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=4000 Gres=gpu:1\n"
        for name, port in zip(NODES, node_ports, strict=True)
    )
    (folder / "gres.conf").write_text("".join(f"NodeName={name} Name=gpu File=/dev/null\n" for name in NODES))
    (folder / "slurm.conf").write_text(
        f"ClusterName=test\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort={ctld_port}\n{auth}"
        f"StateSaveLocation={folder}/state\nSlurmdSpoolDir={folder}/spool-%n\nSlurmdUser=root\n"
        f"SlurmctldPidFile={folder}/ctld.pid\nSlurmdPidFile={folder}/slurmd-%n.pid\n"
        f"SlurmctldLogFile={folder}/ctld.log\nSlurmdLogFile={folder}/slurmd-%n.log\n"
        "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nJobAcctGatherType=jobacct_gather/linux\n"
        "SlurmdParameters=config_overrides\nCommunicationParameters=NoCtldInAddrAny,NoInAddrAny\nReturnToService=2\n"
        "SchedulerType=sched/backfill\nSchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1\n"
        "SelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\nGresTypes=gpu\nKillWait=2\nMinJobAge=300\n"
        "SlurmdTimeout=10\nSlurmctldTimeout=10\nJobRequeue=1\nSwitchType=switch/none\nMpiDefault=none\n"
        "AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n"
        f"AccountingStoragePort={dbd_port}\nAccountingStoragePass={munge}\nAccountingStoreFlags=job_comment\n{nodes}"
        "PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP OverSubscribe=NO\n"
    )
    cluster.until(lambda: Path(sql).exists(), "MariaDB does not start")
    # slurmdbd reads its settings beside slurm.conf.
    cluster.start("slurmdbd", "slurmdbd", "-D")
    cluster.until(lambda: cluster.succeeds("sacctmgr", "-n", "show", "cluster"), "slurmdbd does not answer")
    cluster.run("sacctmgr", "-i", "add", "cluster", "test")
    cluster.start("slurmctld", "slurmctld", "-D", "-c", "-f", f"{folder}/slurm.conf")
    for name in NODES:
        cluster.start_node(name)
    cluster.until(lambda: cluster.run("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * 2, "no idle nodes")
