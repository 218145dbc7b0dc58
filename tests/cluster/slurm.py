"""A real Slurm on this machine, of a test session's own: munge, a controller and four nodes."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
NODES = ("n1", "n2", "n3")
FAR = "far"  # a node that does not see the folder `hidden`; in a partition of its own
SECONDS = 30.0  # that anything may take

CONF = """
ClusterName=tests
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MaxArraySize=17
KillWait=1
MessageTimeout=5
SlurmdTimeout=30
ReturnToService=0
MinJobAge=300
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
{nodes}
PartitionName=all Nodes={all} Default=YES MaxTime=INFINITE State=UP
PartitionName=far Nodes={far} MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Why there can be none here; empty where there can."""
    folders = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=folders) is None]
    if absent:
        return f"no Slurm on this machine ({', '.join(absent)} not installed: slurm-wlm, munge)"
    return "" if os.geteuid() == 0 else "Slurm's daemons are started by root alone"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_until(true: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)


@dataclass
class RealSlurm:
    """Starts and stops the daemons; `hidden` is a folder that the node `far` does not see."""

    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def hidden(self) -> Path:
        return self.folder / "hidden"

    @contextmanager
    def up(self) -> Iterator[RealSlurm]:
        try:
            self._configure()
            self._start_munge()
            self.start_controller()
            for node in (*NODES, FAR):
                self.start_node(node)
            wait_until(self._all_idle, f"nodes to be idle; {self.folder}/*.log say why they are not")
            yield self
        finally:
            for process in reversed(list(self.running.values())):
                process.terminate()
            for process in self.running.values():
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()

    def _configure(self) -> None:
        for name in ("state", "munge", "hidden"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "munge").chmod(0o700)
        self.folder.chmod(0o755)
        key = self.folder / "munge" / "key"
        key.write_bytes(random.randbytes(128))
        key.chmod(0o400)
        port, *ports = free_ports(2 + len(NODES))
        what = "NodeHostname=localhost NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000"
        nodes = [f"NodeName={name} Port={own} {what}" for name, own in zip((*NODES, FAR), ports, strict=True)]
        text = CONF.format(
            port=port, folder=self.folder, nodes="\n".join(nodes), all=",".join(NODES), far=FAR
        )
        (self.folder / "slurm.conf").write_text(text)
        os.environ["SLURM_CONF"] = str(self.folder / "slurm.conf")

    def _start_munge(self) -> None:
        own = self.folder / "munge"
        socket_ = self.folder / "munge.socket"
        files = [f"--{what}-file={own / what}" for what in ("pid", "log", "seed")]
        self._start(
            "munged", "--foreground", "--force", f"--socket={socket_}", f"--key-file={own / 'key'}", *files
        )
        wait_until(socket_.exists, "munge")

    def start_controller(self) -> None:
        self._start("slurmctld", "-D")

    def stop_controller(self) -> None:
        self.running["slurmctld"].terminate()
        self.running["slurmctld"].wait(SECONDS)

    def start_node(self, node: str) -> None:
        command = ["slurmd", "-D", "-N", node]
        if node == FAR:  # mounts of its own: an empty file system over the folder
            hide = f"mount -t tmpfs none {self.hidden} && exec {' '.join(command)}"
            command = ["unshare", "--mount", "sh", "-c", hide]
        self._start(*command, name=node)

    def _start(self, *command: str, name: str = "") -> None:
        log = (self.folder / f"{name or command[0]}.out").open("ab")
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        self.running[name or command[0]] = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, "PATH": path}
        )

    def _all_idle(self) -> bool:
        try:
            return self.says("sinfo", "-h", "-o", "%D %t", "-p", "all").split() == [str(len(NODES)), "idle"]
        except subprocess.CalledProcessError:
            return False

    def says(self, *command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS).stdout

    def set_node(self, node: str, state: str) -> None:
        reason = ["reason=test"] if state == "DOWN" else []
        self.says("scontrol", "update", f"nodename={node}", f"state={state}", *reason)

    def jobs(self) -> dict[str, tuple[str, str]]:
        """By job, its state and node."""
        lines = self.says("squeue", "-r", "-h", "-o", "%i %T %N").splitlines()
        return {parts[0]: (parts[1], parts[2] if len(parts) > 2 else "") for parts in map(str.split, lines)}
