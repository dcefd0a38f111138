package injecttoken

import (
	"strings"
	"testing"
)

func TestDistanceCountsWhatAFingerDoesWrong(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "grant", 5},
		{"grant", "grant", 0},
		{"grnt", "grant", 1},   // one left out
		{"grannt", "grant", 1}, // one too many
		{"grent", "grant", 1},  // another one
		{"garnt", "grant", 1},  // two swapped
		{"gnart", "grant", 2},
		{"wait", "query", 5},
		{"kitten", "sitting", 3},
		{"ca", "abc", 3}, // nothing is changed twice
	} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("from %q to %q: %d, want %d", c.a, c.b, got, c.want)
		}
		if got := distance(c.b, c.a); got != c.want {
			t.Errorf("from %q to %q: %d, want %d", c.b, c.a, got, c.want)
		}
	}
}

func TestTheNearestNameIsSuggestedAndNoFarOne(t *testing.T) {
	names := []string{"client_credentials", "password", "refresh_token", "custom", "none", "a"}
	for _, c := range []struct{ name, want string }{
		{"client_credential", "client_credentials"},
		{"clientcredentials", "client_credentials"},
		{"passwort", "password"},
		{"refrseh_token", "refresh_token"},
		{"custm", "custom"},
		{"nnoe", "none"},
		{"nine", "none"},
		{"b", ""},    // as far from a as it is long
		{"saml", ""}, // no name is near
		{"cu", ""},   // more is missing than is there
		{"pass_word2", "password"},
		{"passwords_of", ""},
		{"", ""},
	} {
		if got := nearest(c.name, names); got != c.want {
			t.Errorf("of %q: %q, want %q", c.name, got, c.want)
		}
	}
	if got := nearest("crm-2", []string{"crm-1", "crm-22", "crm-2x"}); got != "crm-1" {
		t.Errorf("of three that are as near: %q, want the first", got)
	}
	if got := nearest("headr", []string{"headers", "header"}); got != "header" {
		t.Errorf("of two that are near: %q, want the nearest", got)
	}
}

func TestAHintIsTheNearestNameOrAllOfThem(t *testing.T) {
	for _, c := range []struct {
		name  string
		names []string
		want  string
	}{
		{"cmr", []string{"billing", "crm"}, "did you mean crm?"},
		{"stock", []string{"crm", "billing"}, "there are: billing, crm"},
		{"crm", nil, "there are none"},
	} {
		if got := didYouMean(c.name, c.names); got != c.want {
			t.Errorf("of %q among %v: %q, want %q", c.name, c.names, got, c.want)
		}
	}
}

// A hint depends on nothing but the names, for those come out of maps.
func TestAHintDoesNotDependOnTheOrderOfNames(t *testing.T) {
	names := strings.Fields("crm-1 crm-3 billing")
	for range len(names) {
		names = append(names[1:], names[0])
		if got := didYouMean("crm-2", names); got != "did you mean crm-1?" {
			t.Errorf("among %v: %q", names, got)
		}
	}
}
