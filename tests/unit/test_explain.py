"""Why things are as they are: values, files and lines, each with its place and with what it overrode."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from banger.cli import cli
from banger.cli.explain import document, lines
from banger.core.access import TO_BE_MADE
from banger.core.cause import Cause
from banger.core.explain import explain
from banger.core.variables import extra_settings
from banger.errors import PlaybookError, UsageError
from tests.simulated.world import World

Explain = Callable[..., Cause]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{} me"

SITE = f"""\
- images: [{{name: tiny, source: tiny, work_seed: 32MiB}}]
  tasks:
    - mount: {{source: /dev/sda2, target: /srv, fstype: ext4}}
    - file: {{dest: /etc/motd, content: "of the image\\n"}}
- include: web/web.yml
  vars: {{team: front}}
- vms: [{{name: gone, state: absent}}, {{name: own, image: tiny, authorized_keys: ["{KEY.format("A")}"]}}]
"""
WEB = f"""\
- vars: {{team: nobody, size: 1GiB, greeting: "hello {{{{ team }}}}", late: x, early: "{{{{ late }}}}"}}
  vars_files: [values.yml]
  defaults: {{image: tiny, memory: "{{{{ size }}}}", authorized_keys: ["{KEY.format("B")}"], storage: overlay}}
  vms:
    - {{name: "{{{{ team }}}}-{{{{ item }}}}", loop: [1, 2], vcpus: "{{{{ item }}}}", work_disk: 64MiB}}
  tasks:
    - name: Greet
      template: {{src: motd.j2, dest: /etc/motd}}
      when: vm.name.endswith("1")
    - file: {{dest: /etc/resolv.conf, content: "nameserver 192.0.2.1\\n"}}
    - authorized_key: {{key: "{KEY.format("C")}"}}
    - mount: {{source: tmpfs, target: /tmp, fstype: tmpfs, options: [size=10M]}}
    - unmount: {{target: /run}}
    - file: {{dest: "/etc/{{{{ item }}}}.secret", content: "{{{{ item }}}}", mode: 0600}}
      loop: [a, b]
"""
MOTD = """\
{{ greeting }}
{% for n in range(2) -%}
  {{ n }} {{ vm.ip }}
{% endfor %}
end
"""


@pytest.fixture
def explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Explain:
    """Explains a subject of `site.yml`, beside which lies `web/`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "web").mkdir()
    Path("site.yml").write_text(SITE)
    Path("web/web.yml").write_text(WEB)
    Path("web/values.yml").write_text("size: 2GiB\nlate: y\n")
    Path("web/motd.j2").write_text(MOTD)
    world = World(tmp_path)

    def explain_it(subject: str, *extra: str) -> Cause:
        return explain(world.session(), Path("site.yml"), subject, extra_settings(extra))

    return explain_it


@pytest.fixture
def told(explained: Explain) -> Callable[..., str]:
    return lambda subject, *extra: "\n".join(lines(explained(subject, *extra)))


def test_value_has_its_place_and_what_it_overrode(told: Callable[..., str]) -> None:
    assert told("vm.front-2.vcpus") == (
        "vm.front-2.vcpus = 2  (the entry itself, web/web.yml:5:60)\n"
        "    takes item = 2  (loop, web/web.yml:5:45)\n"
        "    instead of 1  (built in)"
    )
    assert told("vm.front-1.state") == "vm.front-1.state = running  (built in)"


def test_variable_has_every_place_that_sets_it(told: Callable[..., str]) -> None:
    assert told("vm.front-1.memory") == (
        "vm.front-1.memory = 2GiB  (defaults of the play, web/web.yml:3:35)\n"
        "    takes size = 2GiB  (vars_files, web/values.yml:1:7)\n"
        "        instead of 1GiB  (vars, web/web.yml:1:30)\n"
        "    instead of 512MiB  (built in)"
    )
    assert told("vm.front-1.name") == (
        "vm.front-1.name = front-1  (the entry itself, web/web.yml:5:14)\n"
        "    takes team = front  (vars of the include, site.yml:6:16)\n"
        "        instead of nobody  (vars, web/web.yml:1:16)\n"
        "    takes item = 1  (loop, web/web.yml:5:45)"
    )
    assert told("vm.back-1.name", "team=back").splitlines()[1:3] == [
        "    takes team = back  (-e team)",
        "        instead of front  (vars of the include, site.yml:6:16)",
    ]


def test_variable_that_another_took_before_it_changed_is_told_as_it_was_then(told: Callable[..., str]) -> None:
    assert told("var.early") == (
        "var.early  (each play that has it)\n"
        "    in the play at web/web.yml:1:3 = x  (vars, web/web.yml:1:82)\n"
        "        takes late = x  (vars, web/web.yml:1:72)"
    )


def test_extra_variable_of_a_file_has_its_place(explained: Explain) -> None:
    Path("more.yml").write_text("\nsize: 3GiB\n")
    (size,) = explained("vm.front-1.memory", "size=1GiB", "@more.yml").takes
    assert (size.value, size.by, str(size.place)) == ("3GiB", "-e @more.yml", "more.yml:2:7")
    assert [(each.value, each.by) for each in size.overrode] == [
        ("1GiB", "-e size"),
        ("2GiB", "vars_files"),
        ("1GiB", "vars"),
    ]


def test_choice_for_auto_is_told_as_one(told: Callable[..., str]) -> None:
    assert told("vm.own.storage").splitlines() == [
        "vm.own.storage = overlay  (chosen for auto on this host: see banger doctor)",
        "    instead of auto  (built in)",
    ]
    assert told("vm.front-1.storage").splitlines()[0].endswith("(defaults of the play, web/web.yml:3:122)")
    assert told("vm.own.ip") == "vm.own.ip = 10.0.2.15  (given by the plugin network_user)"


def test_template_has_its_file_its_variables_and_each_line(told: Callable[..., str]) -> None:
    text = """\
vm.front-1:/etc/motd  (the task template 'Greet', web/web.yml:7:7)
    when vm.name.endswith("1")  (the task, web/web.yml:9:13)
        takes vm.name = front-1  (a fact of the VM)
    takes greeting = hello front  (vars, web/web.yml:1:46)
        takes team = front  (vars of the include, site.yml:6:16)
            instead of nobody  (vars, web/web.yml:1:16)
    takes vm.ip = 10.0.2.15  (a fact of the VM)
    from web/motd.j2  (a template, web/motd.j2:1:1)
    hello front  (with greeting, web/motd.j2:1:1)
    0 10.0.2.15  (with vm.ip, web/motd.j2:3:1)
    1 10.0.2.15  (with vm.ip, web/motd.j2:3:1)
      (web/motd.j2:4:1)
    end  (web/motd.j2:5:1)"""
    assert told("vm.front-1:/etc/motd") == text
    Path("web/motd.j2").write_text("{% set x %}\n{% endset %}{{ x | length }}\n")
    assert told("vm.front-1:/etc/motd").splitlines()[-1] == "    1", "lines that cannot be told apart have no place"


def test_task_that_wins_over_a_plugin_says_over_which(told: Callable[..., str]) -> None:
    assert told("vm.front-1:/etc/resolv.conf") == (
        "vm.front-1:/etc/resolv.conf  (the task file, web/web.yml:10:7)\n"
        "    instead of 'nameserver 10.0.2.3'  (the plugin guestconfig_base)\n"
        "    nameserver 192.0.2.1"
    )
    assert told("vm.own/etc/resolv.conf").splitlines()[0] == "vm.own:/etc/resolv.conf  (the plugin guestconfig_base)"


def test_keys_have_who_asks_for_each(explained: Explain) -> None:
    keys = explained("vm.front-1:/root/.ssh/authorized_keys").parts
    assert [(key.value, key.by, str(key.place)) for key in keys] == [
        (TO_BE_MADE, "banger's own, for banger vm ssh", "None"),
        (KEY.format("B"), "authorized_keys, defaults of the play", "web/web.yml:3:66"),
        (KEY.format("C"), "the task authorized_key", "web/web.yml:11:7"),
    ]
    _, own = explained("vm.own:/root/.ssh/authorized_keys").parts
    assert (own.by, str(own.place)) == ("authorized_keys, the entry itself", "site.yml:7:80")


def test_fstab_has_who_asks_for_each_line_and_for_none(tmp_path: Path, explained: Explain) -> None:
    world = World(tmp_path)
    world.apply(Path("site.yml"))
    cause = explain(world.session(), Path("site.yml"), "vm.front-1:/etc/fstab", {})
    told = "\n".join(lines(cause)).splitlines()
    assert "    /dev/sda2 /srv ext4 defaults 0 0  (the image)" in told
    tmp = told.index("    tmpfs /tmp tmpfs size=10M 0 0  (the task mount, web/web.yml:12:7)")
    assert told[tmp + 1].startswith("        instead of tmpfs /tmp tmpfs defaults,")
    home = told.index("    nothing on /home  (the plugin guestconfig_base)")
    assert told[home + 1] == "        instead of /dev/sda2 /home ext4 defaults 0 2  (the image)"
    run = told.index("    nothing on /run  (the task unmount, web/web.yml:13:7)")
    assert "mode=0755 0 0  (the plugin guestconfig_base)" in told[run + 1]
    image = explain(world.session(), Path("site.yml"), "image.tiny:/etc/fstab", {})
    assert [(part.value, part.by) for part in image.parts] == [
        ("/dev/sda2 /home ext4 defaults 0 2", "the image"),
        ("/dev/sda2 /srv ext4 defaults 0 0", "the task mount"),
    ]
    kept = explain(world.session(), Path("site.yml"), "vm.own.storage", {})
    assert kept.by == "chosen for auto when the VM was made"
    ours, own = explain(world.session(), Path("site.yml"), "vm.own:/root/.ssh/authorized_keys", {}).parts
    assert (ours.by, own.value) == ("banger's own, for banger vm ssh", KEY.format("A"))


def test_fstab_of_an_image_that_is_not_built_is_not_made_up(explained: Explain) -> None:
    first = explained("image.tiny:/etc/fstab").parts[0]
    assert (first.what, first.by) == ("the image's own lines", "known once it is built")


def test_file_that_not_everybody_may_read_is_not_shown(explained: Explain) -> None:
    cause = explained("vm.front-1:/etc/b.secret")
    assert (cause.value, cause.parts) == ("not for everybody to see", ())
    assert [(each.what, each.value) for each in cause.takes] == [("item", "b")]
    assert "PRIVATE" not in json.dumps(document(explained("vm.front-1:/etc/ssh/ssh_host_ed25519_key")))


def test_whole_vm_is_all_its_keys_and_files(explained: Explain) -> None:
    parts = {part.what: part for part in explained("vm.front-1").parts}
    assert {"name", "memory", "storage", "ip", "/etc/motd", "/etc/fstab", "/etc/hostname"} <= parts.keys()
    assert parts["/etc/motd"].by == "the task template 'Greet'"
    files = ["/etc/fstab", "/etc/motd"]
    assert [part.what for part in explained("image.tiny").parts] == ["name", "source", "work_seed", *files]
    assert any(line.startswith("    source = tiny  (") for line in lines(explained("image.tiny")))
    assert [part.what for part in explained("network.user").parts] == ["name", "plugin", "outbound"]
    assert explained("vm.gone").parts[0].value == "gone"


@pytest.mark.parametrize(
    ("subject", "hint"),
    [
        ("vm.fornt-1", "did you mean 'front-1'?"),
        ("vm.front-1.memry", "did you mean 'memory'?"),
        ("vm.front-1:/etc/modt", "did you mean '/etc/motd'?"),
        ("image.tyni", "known: tiny"),
        ("var.temas", "did you mean 'team'?"),
        ("vms.front-1", "did you mean 'vm'?"),
        ("front-1", "such as vm.web, vm.web.memory, vm.web:/etc/motd or var.team"),
        ("var.team.x", "such as vm.web, vm.web.memory, vm.web:/etc/motd or var.team"),
        ("vm.gone:/etc/motd", None),
        ("network.user:/etc/motd", "known: name, plugin, outbound"),
    ],
)
def test_what_is_not_there_is_refused_with_what_was_meant(explained: Explain, subject: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as refused:
        explained(subject)
    assert refused.value.hint == hint


def test_wrong_playbook_is_refused_as_by_apply(explained: Explain) -> None:
    Path("web/motd.j2").write_text("{{ nmae }}")
    with pytest.raises(PlaybookError, match="'nmae' is undefined"):
        explained("vm.own")


def test_host_is_only_looked_at(tmp_path: Path, explained: Explain) -> None:
    world = World(tmp_path)
    explain(world.session(), Path("site.yml"), "vm.front-1", {})
    assert world.host.effects == [] and not world.home.root.exists()


def test_command_tells_it_in_text_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANGER_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Path("p.yml").write_text(
        "- images: [{name: i, source: debootstrap}]\n"
        "  vms: [{name: '{{ who }}', image: i, storage: overlay, network: user, vmm: qemu}]\n"
    )
    done = CliRunner().invoke(cli, ["explain", "p.yml", "vm.web.name", "-e", "who=web"])
    assert done.stdout == "vm.web.name = web  (the entry itself, p.yml:2:16)\n    takes who = web  (-e who)\n"
    done = CliRunner().invoke(cli, ["explain", "p.yml", "image.i.suite", "-e", "who=web", "--format", "json"])
    assert json.loads(done.stdout) == {
        "what": "image.i.suite",
        "value": "bookworm",
        "by": "default of the plugin image_debootstrap",
    }
    assert not (tmp_path / "home").exists()
