package terminal

import (
	"os/exec"
	"strings"
	"testing"
)

func shell(script string) *exec.Cmd { return exec.Command("sh", "-c", script) }

func TestAPersonSeesAndTypes(t *testing.T) {
	s := Start(t, shell(`test -t 0 && test -t 1 && echo terminal; printf '> '; read name; echo "hello $name"; exit 7`))
	s.Await("terminal\n> ")
	s.Type("Cathy")
	if before := s.Await("hello"); before != "Cathy\n" {
		t.Errorf("the terminal shows %q of what is typed", before)
	}
	if code := s.ExitCode(); code != 7 || !strings.HasSuffix(s.Screen(), "hello Cathy\n") {
		t.Errorf("ended with %d: %q", code, s.Screen())
	}
}

func TestCtrlCAndCtrlDArrive(t *testing.T) {
	s := Start(t, shell(`trap 'echo cancelled; exit 130' INT; echo ready; cat; echo end; cat`))
	s.Await("ready")
	s.Type("line")
	s.Await("line\nline") // the echo, and what cat writes
	s.Close()
	s.Await("end")
	s.Type("more")
	s.Await("more\nmore") // the second cat is there: a shell that is about to start it waits for its end
	s.Interrupt()
	s.Await("cancelled")
	if code := s.ExitCode(); code != 130 {
		t.Errorf("ended with %d", code)
	}
}

func TestAScriptHasPipes(t *testing.T) {
	s := StartPiped(t, shell(`test -t 0 || echo pipe; echo trouble >&2; cat; echo end`))
	s.Await("pipe")
	s.Type("line")
	s.Await("line")
	s.Close()
	if code := s.ExitCode(); code != 0 || s.Stdout() != "pipe\nline\nend\n" || !strings.Contains(s.Screen(), "trouble") {
		t.Errorf("ended with %d: %q, of which standard output is %q", code, s.Screen(), s.Stdout())
	}
}

func TestASignalIsNoExitCode(t *testing.T) {
	s := StartPiped(t, shell(`echo ready; exec cat`))
	s.Await("ready")
	s.Interrupt()
	if code := s.ExitCode(); code != -1 {
		t.Errorf("ended with %d", code)
	}
}

func TestTheScreenShowsNoControlSequences(t *testing.T) {
	for output, want := range map[string]string{
		"a\r\nb\r\n":                             "a\nb\n",
		"\x1b[1;31mred\x1b[0m \x1b[Kx":           "red x",
		"waiting .\rwaiting ..\rdone\r\n":        "done\n",
		"\x1b]8;;http://a\x1b\\text\x1b]8;;\x07": "text",
	} {
		if got := Shown(output); got != want {
			t.Errorf("%q is shown as %q, want %q", output, got, want)
		}
	}
}
