package harness

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"
)

var servers struct {
	mu    sync.Mutex // guards built
	built map[string]string
}

var listening = regexp.MustCompile(`listening on (\S+)`)

// StartServer builds a command of caddy_test/servers, each of which is a
// module of its own, runs it until the test ends and returns its address.
func StartServer(tb testing.TB, name string, args ...string) (address string) {
	tb.Helper()
	dir := filepath.Join(repository(), "caddy_test", "servers", name)
	servers.mu.Lock()
	path, built := servers.built[name]
	if !built {
		path = filepath.Join(filepath.Dir(Binary(tb)), "server-"+name)
		build := exec.Command("go", "build", "-o", path, ".")
		build.Dir = dir
		if out, err := build.CombinedOutput(); err != nil {
			servers.mu.Unlock()
			tb.Fatalf("building %s: %v\n%s", name, err, out)
		}
		if servers.built == nil {
			servers.built = make(map[string]string)
		}
		servers.built[name] = path
	}
	servers.mu.Unlock()

	return startServer(tb, name, exec.Command(path, args...))
}

// startServer runs a server until the test ends and returns its address, which
// it prints.
func startServer(tb testing.TB, name string, cmd *exec.Cmd) (address string) {
	tb.Helper()
	out := new(buffer)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if tb.Failed() {
			tb.Logf("%s printed:\n%s", name, tail(out.String(), 3000))
		}
	})
	Eventually(tb, 20*time.Second, name+" listens", func() bool { return listening.MatchString(out.String()) })
	return listening.FindStringSubmatch(out.String())[1]
}
