package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var nodeServers struct {
	mu        sync.Mutex // guards installed
	installed map[string]string
}

// StartNodeServer runs NAME.mjs of caddy_test/servers/NAME by Node.js, with
// the npm packages of its package-lock.json and these variables in its
// environment, until the test ends. It returns its address.
func StartNodeServer(tb testing.TB, name string, env ...string) (address string) {
	tb.Helper()
	return StartNodeScript(tb, name, name, env...)
}

// StartNodeScript is StartNodeServer of SCRIPT.mjs in caddy_test/servers/NAME.
func StartNodeScript(tb testing.TB, name, script string, env ...string) (address string) {
	tb.Helper()
	dir := installNodeServer(tb, name)
	cmd := exec.Command("node", script+".mjs")
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, env...)
	return startServer(tb, name, cmd)
}

// installNodeServer installs the npm packages of a server, once for each run
// of tests, and returns the folder.
func installNodeServer(tb testing.TB, name string) string {
	tb.Helper()
	nodeServers.mu.Lock()
	defer nodeServers.mu.Unlock()
	if dir, ok := nodeServers.installed[name]; ok {
		return dir
	}
	Need(tb, "node", "nodejs")
	Need(tb, "npm", "npm")
	dir, err := os.MkdirTemp("", "inject-token-"+name+"-")
	if err != nil {
		tb.Fatal(err)
	}
	source := filepath.Join(repository(), "caddy_test", "servers", name)
	if err := os.CopyFS(dir, os.DirFS(source)); err != nil {
		tb.Fatal(err)
	}
	if err := npmInstall(dir); err != nil {
		if err = npmInstall(dir); err != nil { // the registry may have been busy
			tb.Fatal(err)
		}
	}
	if nodeServers.installed == nil {
		nodeServers.installed = make(map[string]string)
	}
	nodeServers.installed[name] = dir
	return dir
}

func npmInstall(dir string) error {
	cmd := exec.Command("npm", "ci", "--no-fund", "--no-audit", "--ignore-scripts")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci in %s: %w\n%s", dir, err, out)
	}
	return nil
}

// RemoveNodeServers removes what StartNodeServer has installed. A package's
// TestMain calls it at the end.
func RemoveNodeServers() {
	nodeServers.mu.Lock()
	defer nodeServers.mu.Unlock()
	for _, dir := range nodeServers.installed {
		os.RemoveAll(dir)
	}
	clear(nodeServers.installed)
}
