package harness

import (
	"os/exec"
	"testing"
)

// Chromium returns the path of a Chromium, under any of the names that it has
// on different systems.
func Chromium(tb testing.TB) (path string) {
	tb.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	Need(tb, "chromium", "chromium")
	path, err := exec.LookPath("chromium")
	if err != nil {
		tb.Fatal(err)
	}
	return path
}
