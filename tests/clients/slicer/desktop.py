"""What the plugin finds in 3D Slicer, without a window: MRML is real, only Qt's widgets are stood in for.

The scene, the volumes, markups and segmentations, the readers and writers of files and the logic of the
segment editor are Slicer's own, from the package `slicer-core`. The plugin, MONAILabel.py with its form
MONAILabel.ui, is the one that comes with the package `monailabel`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import slicer
import slicer.util

LABEL_MAP = 1  # vtkSlicerVolumesLogic's option: the file holds labels, not intensities

LOGICS = {
    "Colors": slicer.vtkMRMLColorLogic,
    "Volumes": slicer.vtkSlicerVolumesLogic,
    "Markups": slicer.vtkSlicerMarkupsLogic,
    "Segmentations": slicer.vtkSlicerSegmentationsModuleLogic,
}


def _plugin_folder() -> Path:
    files = importlib.metadata.files("monailabel") or []
    found = [file for file in files if file.match("plugins/slicer/MONAILabel/MONAILabel.py")]
    return Path(str(found[0].locate())).resolve().parent


PLUGIN = _plugin_folder()


class Widget:
    """A widget that is told how to look and never used: every attribute of it is another one."""

    checked = False
    rowCount = 0  # of a table

    def __init__(self, *args: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Widget()

    def __call__(self, *args: object, **kwargs: object) -> Widget:
        return Widget()


class ComboBox(Widget):
    """A list with one entry chosen; `choose` is a person's choice, which the plugin hears of."""

    def __init__(self, *args: object) -> None:
        self._entries: list[str] = []
        self._heard: list[Callable[[int], None]] = []
        self.currentIndex = -1

    @property
    def count(self) -> int:
        return len(self._entries)

    @property
    def currentText(self) -> str:
        return self.itemText(self.currentIndex)

    @currentText.setter
    def currentText(self, text: str) -> None:
        # as Qt does where nobody can type: a text that is no entry is not heard
        if text in self._entries:
            self.currentIndex = self.findText(text)

    def itemText(self, index: int) -> str:
        return self._entries[index] if 0 <= index < self.count else ""

    def findText(self, text: str) -> int:
        return self._entries.index(text) if text in self._entries else -1

    def addItem(self, *icon_and_text: Any) -> None:
        self._entries.append(icon_and_text[-1])
        self.currentIndex = max(self.currentIndex, 0)

    def addItems(self, texts: list[str]) -> None:
        for text in texts:
            self.addItem(text)

    def clear(self) -> None:
        self._entries, self.currentIndex = [], -1

    def setCurrentIndex(self, index: int) -> None:
        self.currentIndex = index

    def setCurrentText(self, text: str) -> None:
        if text not in self._entries:  # as a field one can type into
            self.addItem(text)
        self.currentIndex = self.findText(text)

    def connect(self, signal: str, slot: Callable[[int], None]) -> None:
        self._heard.append(slot)

    def choose(self, text: str) -> None:
        """Choose an entry.

        Raises
        ------
        ValueError
            If there is none of this text.
        """
        self.currentIndex = self._entries.index(text)
        for slot in self._heard:
            slot(self.currentIndex)


class LineEdit(Widget):
    """A line of text."""

    text = ""

    def setText(self, text: str) -> None:
        self.text = text


class PlaceWidget(Widget):
    """Knows the markups node that a person places."""

    def __init__(self, *args: object) -> None:
        self._node: Any = None

    def setCurrentNode(self, node: Any) -> None:
        self._node = node

    def currentNode(self) -> Any:
        return self._node


class SegmentEditor(Widget):
    """The embedded segment editor: its logic is Slicer's."""

    def __init__(self, *args: object) -> None:
        self._logic = slicer.vtkSlicerSegmentEditorLogic()
        self._logic.SetMRMLScene(slicer.mrmlScene)

    def setMRMLSegmentEditorNode(self, node: Any) -> None:
        self._logic.SetSegmentEditorNode(node)

    def setSegmentationNode(self, node: Any) -> None:
        self._logic.SetSegmentationNode(node)

    def setSourceVolumeNode(self, node: Any) -> None:
        self._logic.SetSourceVolumeNode(node)

    def setCurrentSegmentID(self, segment: str) -> None:
        self._logic.SetCurrentSegmentID(segment)

    def effectByName(self, name: str) -> Effect:
        return Effect(self._logic)


class Effect:
    """What Slicer's qSlicerSegmentEditorAbstractEffect passes on to the logic of the segment editor."""

    ModificationModeSet = slicer.vtkSlicerSegmentEditorLogic.ModificationModeSet
    ModificationModeAdd = slicer.vtkSlicerSegmentEditorLogic.ModificationModeAdd

    def __init__(self, logic: Any) -> None:
        self._logic = logic

    def selectedSegmentLabelmap(self) -> Any:
        self._logic.UpdateSelectedSegmentLabelmap()
        return self._logic.GetSelectedSegmentLabelmap()

    def modifySelectedSegmentByLabelmap(self, labelmap: Any, mode: int) -> None:
        node, segment = self._logic.GetSegmentationNode(), self._logic.GetCurrentSegmentID()
        everywhere = [0, -1, 0, -1, 0, -1]
        self._logic.ModifySegmentByLabelmap(node, segment, labelmap, mode, everywhere, True, False)


class BooleanMapper(Widget):
    def __init__(self, widget: Widget, *args: object) -> None:
        self.valueAsInt = int(widget.checked)


WIDGETS = {
    "QComboBox": ComboBox,
    "ctkComboBox": ComboBox,
    "qSlicerMarkupsPlaceWidget": PlaceWidget,
    "qMRMLSegmentEditorWidget": SegmentEditor,
    "qSlicerSegmentEditorWidget": SegmentEditor,
}


def form(path: str) -> types.SimpleNamespace:
    """The widgets of a Qt Designer form, by name."""
    found = {}
    for element in ElementTree.parse(path).iter("widget"):
        widget = found[element.get("name")] = WIDGETS.get(element.get("class"), Widget)()
        checked = element.find("property[@name='checked']/bool")
        if checked is not None:
            widget.checked = checked.text == "true"
    return types.SimpleNamespace(setMRMLScene=lambda scene: None, **found)


class Desktop:
    """Slicer with one scene, its settings, and the messages that it has shown.

    Attributes
    ----------
    patch : MonkeyPatch
        Undoes at the end what is put into the package `slicer` and among the modules.
    settings : dict
        What the settings dialog holds.
    said : list of str
        Information shown, with its details.
    errors : list of str
        Warnings and errors shown, with their details, and exceptions of observers.
    slice_offset : float
        Where the red slice view is, in mm.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.settings: dict[str, Any] = {}
        self.said: list[str] = []
        self.errors: list[str] = []
        self.slice_offset = 0.0
        self.patch, self._folder, self._files = patch, folder, 0

        self.scene = slicer.vtkMRMLScene()
        application = slicer.vtkSlicerApplicationLogic()
        application.SetMRMLScene(self.scene)
        application.GetColorLogic().SetMRMLScene(self.scene)
        application.GetColorLogic().AddDefaultColorNodes()
        self._logics = {}
        for name, kind in LOGICS.items():
            logic = self._logics[name] = kind()
            logic.SetMRMLScene(self.scene)
            logic.SetMRMLApplicationLogic(application)
            application.SetModuleLogic(name, logic)
        self._application = application
        segmentations = types.SimpleNamespace(logic=lambda: self._logics["Segmentations"])

        patch.setattr(slicer, "mrmlScene", self.scene, raising=False)
        patch.setattr(slicer, "app", self, raising=False)
        patch.setattr(slicer, "modules", types.SimpleNamespace(segmentations=segmentations), raising=False)
        patch.setattr(slicer, "qSlicerSegmentEditorAbstractEffect", Effect, raising=False)
        patch.setattr(slicer.util, "loadUI", form)
        patch.setattr(slicer.util, "childWidgetVariables", lambda widgets: widgets)
        patch.setattr(slicer.util, "createProgressDialog", lambda **kwargs: Widget())
        patch.setattr(slicer.util, "tempDirectory", self._new_folder)
        patch.setattr(slicer.util, "infoDisplay", self._show(self.said))
        patch.setattr(slicer.util, "warningDisplay", self._show(self.errors))
        patch.setattr(slicer.util, "errorDisplay", self._show(self.errors))
        patch.setattr(slicer.util, "confirmOkCancelDisplay", lambda *args, **kwargs: True)
        # an exception in an observer, which VTK only prints
        patch.setattr(sys, "excepthook", lambda kind, error, trace: self.errors.append(repr(error)))

    @staticmethod
    def _show(shown: list[str]) -> Callable[..., None]:
        return lambda text, detailedText="", **kwargs: shown.append(f"{text}\n{detailedText}")

    def _new_folder(self, key: str) -> str:
        folder = self._folder / key
        folder.mkdir()
        return str(folder)

    def _new_file(self, ending: str) -> Path:
        self._files += 1
        return self._folder / f"{self._files}{ending}"

    # slicer.app

    def connect(self, signal: str, slot: Callable[[], None]) -> None:
        if signal == "startupCompleted()":
            slot()

    def commandOptions(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(noMainWindow=False)

    def settingsDialog(self) -> Widget:
        return Widget()

    def processEvents(self) -> None:
        pass

    def layoutManager(self) -> Desktop:
        return self

    def sliceWidget(self, name: str) -> Desktop:
        return self

    def sliceLogic(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(GetSliceOffset=lambda: self.slice_offset)

    def coreIOManager(self) -> Desktop:
        return self

    def loadNodes(self, kind: str, properties: dict[str, Any], loaded: Any, messages: Any) -> bool:
        path = Path(properties["fileName"])
        name = path.name.split(".")[0]
        options = LABEL_MAP if properties.get("labelmap") else 0
        node = self._logics["Volumes"].AddArchetypeVolume(str(path), name, options)
        if node is not None:
            loaded.AddItem(node)
        return node is not None

    def fileWriterFileType(self, node: Any) -> str:
        return "VolumeFile"

    def saveNodes(self, kind: str, properties: dict[str, Any], messages: Any) -> bool:
        storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
        storage.SetFileName(properties["fileName"])
        return bool(storage.WriteData(self.scene.GetNodeByID(properties["nodeID"])))

    # modules that the plugin imports

    def push_volume(self, image: Any, node: None, className: str) -> Any:
        """sitkUtils.PushVolumeToSlicer: the image goes through a file, which Slicer's own reader reads."""
        import SimpleITK as sitk

        path = self._new_file(".nrrd")
        sitk.WriteImage(image, str(path))
        volume = slicer.util.loadVolume(str(path), {"labelmap": "LabelMap" in className})
        assert volume.IsA(className)
        return volume

    def download_volumes(self, nodeNames: str, fileNames: str, uris: str, checksums: str | None) -> list[Any]:
        """SampleData.SampleDataLogic.downloadFromURL: a file from the server becomes a volume."""
        path = self._folder / fileNames
        assert slicer.util.downloadFile(uris, str(path), checksums)
        volume = slicer.util.loadVolume(str(path), {})
        volume.SetName(nodeNames)
        return [volume]


def load_plugin(desktop: Desktop) -> types.ModuleType:
    """MONAI Label's module for Slicer, imported into this desktop; its settings are at their defaults."""

    patch = desktop.patch

    def stand_in(name: str, **content: Any) -> None:
        module = types.ModuleType(name)
        vars(module).update(content)
        patch.setitem(sys.modules, name, module)

    class Settings:
        contains = staticmethod(desktop.settings.__contains__)
        value = staticmethod(desktop.settings.get)
        setValue = staticmethod(desktop.settings.__setitem__)

    class SettingsPanel(Widget):
        def registerProperty(self, key: str, widget: Widget, what: str, signal: str) -> None:
            desktop.settings.setdefault(key, getattr(widget, what))

    class Module:
        def __init__(self, parent: Any = None) -> None:
            self.parent = parent

    class ModuleWidget(Module):
        def __init__(self, parent: Any = None) -> None:
            self.parent, self.layout = parent, Widget()

        def setup(self) -> None:
            pass

        def resourcePath(self, name: str) -> str:
            return str(PLUGIN / "Resources" / name)

    class ModuleLogic(Module):
        def getParameterNode(self) -> Any:
            tag, kind = "MONAILabel", "vtkMRMLScriptedModuleNode"
            node = slicer.mrmlScene.GetSingletonNode(tag, kind)
            if node is None:
                node = slicer.mrmlScene.CreateNodeByClass(kind)
                node.SetSingletonTag(tag)
                node = slicer.mrmlScene.AddNode(node)
            return node

    stand_in(
        "qt",
        **{name: Widget() for name in ("QApplication", "Qt", "QIcon", "QTimer", "SIGNAL")},
        QVBoxLayout=Widget,
        QFormLayout=Widget,
        QTableWidgetItem=Widget,
        QSettings=Settings,
        QDialog=Widget,
        QComboBox=ComboBox,
        QCheckBox=Widget,
        QLineEdit=LineEdit,
    )
    stand_in(
        "ctk",
        ctkSettingsPanel=SettingsPanel,
        ctkBooleanMapper=BooleanMapper,
        ctkCollapsibleGroupBox=Widget,
    )
    stand_in("sitkUtils", PushVolumeToSlicer=desktop.push_volume)
    downloads = types.SimpleNamespace(downloadFromURL=desktop.download_volumes)
    stand_in("SampleData", SampleDataLogic=lambda: downloads)
    stand_in("slicer.i18n", tr=lambda text: text, translate=lambda context, text: text)
    stand_in(
        "slicer.ScriptedLoadableModule",
        ScriptedLoadableModule=Module,
        ScriptedLoadableModuleWidget=ModuleWidget,
        ScriptedLoadableModuleLogic=ModuleLogic,
        ScriptedLoadableModuleTest=Module,
    )
    patch.setitem(sys.modules, "vtkSegmentationCore", slicer.vtkSegmentationCore)
    patch.syspath_prepend(str(PLUGIN))
    patch.delitem(sys.modules, "MONAILabel", raising=False)
    plugin = importlib.import_module("MONAILabel")
    plugin.MONAILabel(Widget())  # what Slicer does at its start: the settings panel registers its defaults
    return plugin
