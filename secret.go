package injecttoken

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddytoken/inject-token/tokensource"
)

// runtimePlaceholders are those that mean the same without a request. They are
// resolved at each token request, so that a secret that is rotated on disk is
// picked up; what they stood for is never kept.
var runtimePlaceholders = []string{"env.", "file.", "system."}

// isRuntime says whether a placeholder can be resolved by lookup.
func isRuntime(name string) bool {
	for _, prefix := range runtimePlaceholders {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

var globalReplacer = caddy.NewReplacer()

// lookup resolves a runtime placeholder. Caddy's own Replacer.Replace is not
// used: its errors print what stands around a placeholder.
func lookup(name string) (string, bool) {
	if !isRuntime(name) {
		return "", false
	}
	value, _ := globalReplacer.GetString(name)
	return value, true
}

// isLiteral says whether a secret stands in the configuration itself, where
// everybody sees it who can read that.
func isLiteral(secret string) bool {
	return secret != "" && !slices.ContainsFunc(tokensource.Placeholders(secret), isRuntime)
}
