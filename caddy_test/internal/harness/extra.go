package harness

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"testing"
)

// BinaryWith builds a caddy with one more file in its main package, as someone
// would who adds a module of their own. It is removed when the test ends.
func BinaryWith(tb testing.TB, source string) string {
	tb.Helper()
	dir := tb.TempDir()
	WriteFile(tb, dir, "extra.go", source)
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(repository(), "cmd", "caddy", "extra.go"): filepath.Join(dir, "extra.go"),
	}})
	if err != nil {
		tb.Fatal(err)
	}
	WriteFile(tb, dir, "overlay.json", string(overlay))
	path := filepath.Join(dir, "caddy")
	cmd := exec.Command("go", "build", "-race", "-overlay", filepath.Join(dir, "overlay.json"), "-o", path, "./cmd/caddy")
	cmd.Dir = repository()
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("building caddy: %v\n%s", err, out)
	}
	return path
}

// Executable runs another caddy than Binary's.
func Executable(path string) Option {
	return func(cmd *exec.Cmd, _ *Caddy) { cmd.Path, cmd.Args[0] = path, path }
}

// Excuse stops Caddy and takes an expected text out of its log, for which the
// test would fail otherwise: a panic that the test has provoked.
func (c *Caddy) Excuse(text string) {
	c.Stop()
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	cleaned := bytes.ReplaceAll(c.log.b.Bytes(), []byte(text), []byte("(excused)"))
	c.log.b.Reset()
	c.log.b.Write(cleaned)
}

// RunExecutable is Run with another caddy than Binary's, and with further
// variables in its environment.
func RunExecutable(tb testing.TB, path, dir string, env []string, args ...string) (output string, code int) {
	tb.Helper()
	cmd := command(tb, dir, args...)
	cmd.Path, cmd.Args[0] = path, path
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	if exit, exited := errors.AsType[*exec.ExitError](err); exited {
		return string(out), exit.ExitCode()
	} else if err != nil {
		tb.Fatal(err)
	}
	return string(out), 0
}
