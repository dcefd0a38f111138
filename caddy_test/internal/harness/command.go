package harness

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// StartCommand runs a command of the README, in the repository, until the test
// ends. Caddy's own files go to a folder.
func StartCommand(tb testing.TB, home, command string) {
	tb.Helper()
	output := new(buffer)
	cmd := exec.Command("sh", "-c", "exec "+command)
	cmd.Dir = repository()
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // go run has a child
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		_ = cmd.Wait()
		if tb.Failed() {
			tb.Logf("%s\n%s", command, output.String())
		}
	})
}
