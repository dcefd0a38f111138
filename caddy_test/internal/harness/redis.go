package harness

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// StartRedis runs a real redis-server, which keeps everything in memory, until
// the test ends, and returns its address.
func StartRedis(tb testing.TB) (address string) {
	tb.Helper()
	Need(tb, "redis-server", "redis-server")
	port := strconv.Itoa(Port(tb))
	out := new(buffer)
	cmd := exec.Command("redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", tb.TempDir())
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if tb.Failed() {
			tb.Logf("redis-server printed:\n%s", tail(out.String(), 3000))
		}
	})
	Eventually(tb, 20*time.Second, "redis-server listens", func() bool {
		return strings.Contains(out.String(), "Ready to accept connections")
	})
	return "127.0.0.1:" + port
}
