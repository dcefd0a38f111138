package injecttoken

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/caddytoken/inject-token/refresher"
	"github.com/caddytoken/inject-token/tokensource"
)

func TestTheDefaultsOfTheREADMEAreThoseThatThereAre(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		fmt.Sprintf("| `wait DURATION` | how long a request may wait where there is no token yet. Default %v", DefaultWait),
		fmt.Sprintf("| `timeout DURATION` | of one token request. Default %v", tokensource.DefaultTimeout),
		fmt.Sprintf("from 1%% to 99%%. Default %v%%", 100*refresher.DefaultRefreshAt),
		fmt.Sprintf("| Caddy stops | | a token request under way may finish, for up to %v s", endGrace.Seconds()),
	} {
		if !strings.Contains(string(readme), want) {
			t.Errorf("the README does not say: %s", want)
		}
	}
}
