package caddy_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

// tokenSourceCommands are all of caddy token-source.
var tokenSourceCommands = []string{"list", "show", "authorize", "refresh", "revoke", "check", "providers", "keygen"}

func TestEveryCommandsHelpHasAnExample(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	output, code := harness.Run(t, dir, "token-source", "--help")
	assertSaid(t, output, code, 0, append([]string{"caddy token-source"}, tokenSourceCommands...)...)
	for _, command := range tokenSourceCommands {
		help, code := harness.Run(t, dir, "token-source", command, "--help")
		example := regexp.MustCompile(`(?s)Examples?:.*\n\s+(\$ )?caddy token-source ` + command)
		if code != 0 || !example.MatchString(help) {
			t.Errorf("the help of %s, which ended with %d, has no example:\n%s", command, code, help)
		}
		usage, _, _ := strings.Cut(help, "\nFlags:") // which cobra does not wrap
		for line := range strings.SplitSeq(usage, "\n") {
			if len(line) > 100 {
				t.Errorf("the help of %s has a line of %d columns: %s", command, len(line), line)
			}
		}
		short := regexp.MustCompile(`(?m)^\s+` + command + `\s+\S+ \S+`)
		if !short.MatchString(output) {
			t.Errorf("the list of commands does not say what %s does:\n%s", command, output)
		}
	}
	if all, code := harness.Run(t, dir, "help"); code != 0 || !strings.Contains(all, "token-source") {
		t.Errorf("caddy help, which ended with %d, does not know of token-source", code)
	}
}

// TestExitCodesAreDocumented has the help of each command that ends with
// another code than 0 and 1 say so.
func TestExitCodesAreDocumented(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for command, codes := range map[string][]string{"authorize": {"4", "130"}, "refresh": {"4", "5"}, "check": {"4", "5"}} {
		help, _ := harness.Run(t, dir, "token-source", command, "--help")
		for _, code := range codes {
			if !regexp.MustCompile(`\b` + code + `\b`).MatchString(help) {
				t.Errorf("the help of %s does not tell of the exit code %s:\n%s", command, code, help)
			}
		}
	}
}

func TestWrongUseIsSaidSo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, c := range []struct {
		args  string
		words []string
	}{
		{"lst", []string{"lst", "list"}},
		{"authorise crm", []string{"authorise", "authorize"}},
		{"xyzzy", []string{"xyzzy"}},
		{"list --jsn", []string{"--jsn"}},
		{"list crm", []string{"crm"}},
		{"list --address", []string{"--address"}},
		{"show", []string{"NAME"}},
		{"show crm batch", []string{"NAME"}},
		{"authorize", []string{"NAME"}},
		{"authorize crm batch", []string{"NAME"}},
		{"authorize crm --json", []string{"--json"}},
		{"refresh", []string{"NAME"}},
		{"revoke", []string{"NAME"}},
		{"check --xyzzy", []string{"--xyzzy"}},
		{"providers okta auth0", []string{"at most 1"}},
		{"providers --jsn", []string{"--jsn"}},
		{"keygen --json", []string{"--json"}},
	} {
		output, code := harness.Run(t, dir, append([]string{"token-source"}, strings.Fields(c.args)...)...)
		t.Log(c.args)
		assertSaid(t, output, code, 1, c.words...)
	}
	// Alone it shows what there is.
	output, code := harness.Run(t, dir, "token-source")
	if code > 1 || !strings.Contains(output, "authorize") {
		t.Errorf("caddy token-source alone ended with %d:\n%s", code, output)
	}
}
