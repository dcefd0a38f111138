package harness

import (
	"io"
	"os/exec"
	"testing"
	"time"
)

// Dialogue is a command of the caddy binary that a person talks with.
type Dialogue struct {
	tb    testing.TB
	cmd   *exec.Cmd
	out   *buffer
	in    io.WriteCloser
	ended chan struct{} // closed when the process has ended
}

// StartDialogue runs a command of the caddy binary until it or the test ends.
func StartDialogue(tb testing.TB, dir string, args ...string) *Dialogue {
	tb.Helper()
	d := &Dialogue{tb: tb, cmd: command(tb, dir, args...), out: new(buffer), ended: make(chan struct{})}
	d.cmd.Stdout, d.cmd.Stderr = d.out, d.out
	var err error
	if d.in, err = d.cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		_ = d.cmd.Wait()
		close(d.ended)
	}()
	tb.Cleanup(func() {
		_ = d.cmd.Process.Kill()
		<-d.ended
		if tb.Failed() {
			tb.Logf("caddy %v printed:\n%s", args, d.Output())
		}
	})
	return d
}

// Output is what was printed so far.
func (d *Dialogue) Output() string { return d.out.String() }

// Say types a line.
func (d *Dialogue) Say(line string) {
	d.tb.Helper()
	if _, err := io.WriteString(d.in, line+"\n"); err != nil {
		d.tb.Error(err)
	}
}

// End waits until the command has ended by itself, and returns its exit code.
func (d *Dialogue) End() (code int) {
	d.tb.Helper()
	select {
	case <-d.ended:
	case <-time.After(time.Minute):
		d.tb.Fatal("the command does not end")
	}
	return d.cmd.ProcessState.ExitCode()
}
