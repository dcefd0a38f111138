package harness

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// BinaryWithoutRace builds the custom caddy as users do, without the race
// detector: for what is measured. It is removed when the test ends.
func BinaryWithoutRace(tb testing.TB) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "caddy")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/caddy")
	cmd.Dir = repository()
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("building caddy: %v\n%s", err, out)
	}
	return path
}
