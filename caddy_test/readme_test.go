package caddy_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

// readmeBlocksAfter returns the README from the first Caddyfile after a
// heading on.
func readmeBlocksAfter(t *testing.T, heading string) string {
	t.Helper()
	_, after, found := strings.Cut(harness.ReadRepositoryFile(t, "README.md"), "\n"+heading)
	if !found {
		t.Fatalf("the README has no heading %q", heading)
	}
	_, after, found = strings.Cut(after, "```caddyfile\n")
	if !found {
		t.Fatalf("the README has no Caddyfile after %q", heading)
	}
	return after
}

var readmeCaddyfile = regexp.MustCompile("(?s)```caddyfile\n(.*?)```")

func TestEveryCaddyfileOfTheREADMEIsValidAndFormatted(t *testing.T) {
	t.Parallel()
	readme := harness.ReadRepositoryFile(t, "README.md")
	blocks := readmeCaddyfile.FindAllStringSubmatch(readme, -1)
	if len(blocks) < 9 {
		t.Fatalf("the README has %d Caddyfiles", len(blocks))
	}
	dir := t.TempDir()
	for _, block := range blocks {
		line := 1 + strings.Count(readme[:strings.Index(readme, block[1])], "\n")
		harness.WriteFile(t, dir, "Caddyfile", block[1])
		if out, code := harness.Run(t, dir, "validate", "--config", "Caddyfile"); code != 0 {
			t.Errorf("the Caddyfile at line %d of the README is not valid:\n%s", line, out)
		}
		if out, code := harness.Run(t, dir, "fmt", "Caddyfile"); code != 0 || out != block[1] {
			t.Errorf("caddy fmt would change the Caddyfile at line %d of the README to:\n%s", line, out)
		}
	}
}

func TestTheOptionsOfTheREADMEAreThoseThatThereAre(t *testing.T) {
	t.Parallel()
	readme := harness.ReadRepositoryFile(t, "README.md")
	dir := t.TempDir()
	harness.WriteFile(t, dir, "Caddyfile", "{\n\ttoken_sources {\n\t\tsource a {\n\t\t\txyzzy 1\n\t\t}\n\t}\n}\n")
	out, code := harness.Run(t, dir, "adapt", "--config", "Caddyfile")
	_, list, found := strings.Cut(out, "there are: ")
	if code == 0 || !found {
		t.Fatalf("an unknown option was answered %d %s", code, out)
	}
	list, _, _ = strings.Cut(list, ", at ")
	options := strings.Split(list, ", ")
	if len(options) < 15 {
		t.Fatalf("few options: %v", options)
	}
	for _, option := range options {
		if !regexp.MustCompile("(?m)^\\|.*`" + option + "[ `]").MatchString(readme) {
			t.Errorf("the README's table does not explain %s", option)
		}
	}
}
