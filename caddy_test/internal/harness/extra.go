package harness

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// BinaryWith builds a caddy with one more file in its main package, as someone
// would who adds a module of their own. It is removed when the test ends.
func BinaryWith(tb testing.TB, source string) string {
	tb.Helper()
	path, err := buildWith(tb.TempDir(), source)
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// shared are the binaries of SharedBinaryWith, by their names.
var shared struct {
	mu    sync.Mutex // guards built
	built map[string]sharedBinary
}

type sharedBinary struct {
	dir, path string
	err       error
}

// SharedBinaryWith is BinaryWith for several tests: it is built once for each
// run of tests, and removed by RemoveBinary.
func SharedBinaryWith(tb testing.TB, name, source string) string {
	tb.Helper()
	return sharedBinaryOf(tb, name, func(dir string) (string, error) { return buildWith(dir, source) })
}

// SharedBinaryChanged builds a caddy in which a text of one of the repository's
// files is another one, such as a time that no test can wait for.
func SharedBinaryChanged(tb testing.TB, name, file, old, changed string) string {
	tb.Helper()
	text := ReadRepositoryFile(tb, file)
	if strings.Count(text, old) != 1 {
		tb.Fatalf("%s holds %q %d times, want once", file, old, strings.Count(text, old))
	}
	return sharedBinaryOf(tb, name, func(dir string) (string, error) {
		return buildReplacing(dir, file, strings.Replace(text, old, changed, 1))
	})
}

func sharedBinaryOf(tb testing.TB, name string, build func(dir string) (string, error)) string {
	tb.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	binary, built := shared.built[name]
	if !built {
		if binary.dir, binary.err = os.MkdirTemp("", "inject-token-caddy-"); binary.err == nil {
			binary.path, binary.err = build(binary.dir)
		}
		if shared.built == nil {
			shared.built = make(map[string]sharedBinary)
		}
		shared.built[name] = binary
	}
	if binary.err != nil {
		tb.Fatal(binary.err)
	}
	return binary.path
}

func removeShared() {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	for _, binary := range shared.built {
		os.RemoveAll(binary.dir)
	}
}

// buildWith builds a caddy with one more file in its main package in a folder.
func buildWith(dir, source string) (path string, err error) {
	return buildReplacing(dir, filepath.Join("cmd", "caddy", "extra.go"), source)
}

// buildReplacing builds a caddy with another text of a file, in a folder.
func buildReplacing(dir, file, source string) (path string, err error) {
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(repository(), file): filepath.Join(dir, "replaced.go"),
	}})
	if err != nil {
		return "", err
	}
	for name, text := range map[string]string{"replaced.go": source, "overlay.json": string(overlay)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	path = filepath.Join(dir, "caddy")
	cmd := exec.Command("go", "build", "-race", "-overlay", filepath.Join(dir, "overlay.json"), "-o", path, "./cmd/caddy")
	cmd.Dir = repository()
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building caddy: %w\n%s", err, out)
	}
	return path, nil
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
