package caddy_test

import (
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

// readmeCurl is a call of curl in the README, and what it prints.
var readmeCurl = regexp.MustCompile(`(?m)^    \$ curl (http://\S+).*\n    (.*)$`)

// TestTheREADMEsFirstCommandDoesWhatItSays changes nothing of the example but
// its ports, which may be taken on the machine that tests.
func TestTheREADMEsFirstCommandDoesWhatItSays(t *testing.T) {
	t.Parallel()
	readme := harness.ReadRepositoryFile(t, "README.md")
	command := regexp.MustCompile(`(?m)^    (go run .*)$`).FindStringSubmatch(readme)
	calls := readmeCurl.FindAllStringSubmatch(readme, -1)
	if command == nil || len(calls) != 2 {
		t.Fatalf("the README's commands are not found: %q, %q", command, calls)
	}
	const example = "Caddyfile.example"
	text := harness.ReadRepositoryFile(t, example)
	var ports []string
	for _, port := range []string{"8080", "8081", "8082", "2019"} {
		if !strings.Contains(text, "127.0.0.1:"+port) {
			t.Fatalf("the example does not use port %s", port)
		}
		ports = append(ports, "127.0.0.1:"+port, "127.0.0.1:"+itoa(harness.Port(t)))
	}
	moved := strings.NewReplacer(ports...)
	dir := t.TempDir()
	harness.WriteFile(t, dir, example, moved.Replace(text))
	if !strings.Contains(command[1], " "+example) {
		t.Fatalf("%q does not run the example", command[1])
	}
	harness.StartCommand(t, dir, strings.Replace(command[1], " "+example, " "+filepath.Join(dir, example), 1))

	harness.Eventually(t, 10*time.Minute, "the example answers", func() bool { return tryToAsk(moved.Replace(calls[0][1])).status == http.StatusOK })
	for i, status := range []int{http.StatusOK, http.StatusUnauthorized} {
		if got := ask(t, moved.Replace(calls[i][1])); got.status != status || got.body != calls[i][2] {
			t.Errorf("%s: answered %d %q, and the README says %q", calls[i][1], got.status, got.body, calls[i][2])
		}
	}
}
