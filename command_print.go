package injecttoken

import (
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// timeForm is how times are told to people.
const timeForm = "2006-01-02 15:04:05 MST"

// until says until when, where that is known.
func until(at *time.Time) string {
	if at == nil {
		return ""
	}
	return " until " + at.Local().Format(timeForm)
}

func printTable(all []*sourceStatus) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer func() { _ = w.Flush() }()
	_, _ = fmt.Fprintln(w, "NAME\tGRANT\tSTATE\tTOKEN UNTIL\tWHAT TO KNOW")
	for _, s := range all {
		expires := "-"
		switch {
		case s.HasToken && s.Expires == nil:
			expires = "not known"
		case s.Expires != nil:
			expires = s.Expires.Local().Format(timeForm)
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", s.Name, s.Grant, s.State, expires, remark(s))
	}
}

// remark is what is to be known of a source first.
func remark(s *sourceStatus) string {
	switch {
	case s.Authorize != "":
		return "run: " + s.Authorize + lastTry(s)
	case s.Error != nil:
		return s.Error.Message
	case s.Storage != "stored":
		return "the token could not be stored yet"
	case s.HasToken && !s.Refreshable:
		return "there is no refresh token: it will need a person again"
	}
	return ""
}

// lastTry says what has become of the last authorization.
func lastTry(s *sourceStatus) string {
	a := s.LastAuthorization
	switch {
	case a == nil || a.Status == authorizationGranted:
		return ""
	case a.Message == "":
		return fmt.Sprintf(" (one is %s)", a.Status)
	}
	return fmt.Sprintf(" (last try %s: %s)", a.Status, a.Message)
}

func printSource(s *sourceStatus) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer func() { _ = w.Flush() }()
	line := func(name, value string) {
		if value != "" {
			_, _ = fmt.Fprintf(w, "%s:\t%s\n", name, value)
		}
	}
	at := func(t *time.Time) string { return strings.TrimPrefix(until(t), " until ") }
	line("name", s.Name)
	line("grant", s.Grant)
	line("provider", s.Provider)
	line("state", string(s.State))
	line("scopes", strings.Join(s.Scopes, " "))
	if s.HasToken && s.Expires == nil {
		line("token until", "not known; until the API refuses it")
	}
	line("token until", at(s.Expires))
	line("obtained", at(s.LastRenewal))
	line("next renewal", at(s.NextRenewal))
	if s.HasToken && !s.Refreshable {
		line("refresh token", "none: it will need a person again")
	}
	if s.Error != nil {
		line("error", s.Error.Message)
		if s.Failures > 1 {
			line("failures", fmt.Sprint(s.Failures, " in a row"))
		}
	}
	if s.Storage != "stored" {
		line("storage", "the newest token could not be stored yet; that is tried again")
	}
	line("node", s.Node)
	line("to do", s.Authorize+lastTry(s))
}
